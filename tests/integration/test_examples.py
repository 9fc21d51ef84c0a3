"""The examples, each in an empty folder: they run, and end with what they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset, load_finetuned_model

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "walkthrough.ipynb").read_text("utf-8"))
CODE_CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def started(folder, *arguments):
    """Run Python in a folder, with what the examples import in reach; return what it printed."""
    path = os.pathsep.join(filter(None, (str(EXAMPLES), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    return run.stdout


def on_less_data(source, functions=160, held_out=40):
    """Return an example with fewer functions than its 800, so that it takes seconds."""
    less = {"(800,": f"({functions},", "[:200]": f"[:{held_out}]", "[200:]": f"[{held_out}:]"}
    for much, little in less.items():
        assert much in source
        source = source.replace(much, little)
    return source


def test_the_quickstart_runs(tmp_path):
    """The example that `make example` runs ends with a table, hits and two models."""
    source = (EXAMPLES / "01_quickstart.py").read_text("utf-8")
    found = started(tmp_path, "-c", on_less_data(source))
    for system in ("base", "adapter", "full"):
        assert f"| {system} |" in found
    assert found.count("def ") >= 3
    load_finetuned_model(tmp_path / "example_output" / "adapter")
    load_finetuned_model(tmp_path / "example_output" / "full")


def test_generating_runs(tmp_path):
    """Two questions for each of 40 functions, told and written."""
    assert "queries                   80" in started(tmp_path, EXAMPLES / "02_generate.py")
    dataset = EmbeddingQAFinetuneDataset.from_json(tmp_path / "example_output" / "generated.json")
    assert len(dataset.corpus) == 40


def test_a_stored_index_gets_better_and_no_document_is_paid_for_again(tmp_path):
    """Adapter and query encoder find more in the same index; the training paid for a text once."""
    source = (EXAMPLES / "03_frozen_index.py").read_text("utf-8")
    found = started(tmp_path, "-c", on_less_data(source, functions=320, held_out=80))
    before = float(re.search(r"questions: ([\d.]+) with the base", found)[1])
    assert float(re.search(r"adapter: ([\d.]+)", found)[1]) > before
    assert float(re.search(r"query encoder: ([\d.]+)", found)[1]) > before
    paid = re.search(r"paid for (\d+) queries and (\d+) documents", found)
    assert (int(paid[1]), int(paid[2])) == (240, 240)
    assert "paid for again: 0\n" in found


@pytest.mark.parametrize(
    ("name", "systems"),
    [
        ("04_hard_negatives.py", ("base", "finetuned")),
        ("05_lora_and_merging.py", ("base", "lora", "merged")),
    ],
)
def test_examples_end_with_a_table(tmp_path, name, systems):
    """Every model of the example stands in its table."""
    if "lora" in systems:
        pytest.importorskip("peft")
    found = started(tmp_path, EXAMPLES / name)
    for system in systems:
        assert f"| {system} |" in found


def test_the_report_is_written(tmp_path):
    """The page and its pictures are there."""
    pytest.importorskip("matplotlib")
    started(tmp_path, EXAMPLES / "06_report.py")
    assert (tmp_path / "example_output" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "example_output").glob("*.png"))


def test_several_processes_run(tmp_path):
    """Two processes write one model and print the same table."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert "finetuned" in started(tmp_path, *launcher, EXAMPLES / "07_torchrun.py")
    load_finetuned_model(tmp_path / "example_output" / "torchrun")


def test_the_notebook_runs(tmp_path):
    """All its code, in its order, without the lines that only a notebook understands."""
    pytest.importorskip("matplotlib")
    lines = [line for cell in CODE_CELLS for line in [*cell["source"], "\n"]]
    source = "".join(line for line in lines if not line.startswith("%"))
    found = started(tmp_path, "-c", on_less_data(source))
    assert "shared documents" in found
    assert len(re.findall(r"^0\.\d\d  def ", found, re.MULTILINE)) == 3


def test_the_notebook_is_stored_as_it_was_executed():
    """From the first cell to the last, without an error, and with the picture of the report."""
    assert [cell["execution_count"] for cell in CODE_CELLS] == [*range(1, len(CODE_CELLS) + 1)]
    outputs = [output for cell in CODE_CELLS for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
