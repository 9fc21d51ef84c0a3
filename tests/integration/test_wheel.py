"""The wheel, built and installed into a new environment without the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL_FINETUNE = """
import sys
from pathlib import Path
import llama_index.finetuning, llama_index.finetuning.embeddings as api
assert Path(llama_index.finetuning.__file__).is_relative_to(sys.prefix), llama_index.finetuning
assert not {"torch", "transformers"} & sys.modules.keys()
from llama_index.finetuning import SentenceTransformersFinetuneEngine
from llama_index.finetuning.embeddings.common import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.adapter import EmbeddingAdapterFinetuneEngine
import llama_index.finetuning.embeddings.adapter_utils, llama_index.finetuning.types
words = ["amber", "bridge", "candle", "river"]
dataset = EmbeddingQAFinetuneDataset(
    queries={w: "ask " + w for w in words},
    corpus={w: w + " garden" for w in words},
    relevant_docs={w: [w] for w in words},
)
engine = SentenceTransformersFinetuneEngine(
    dataset, sys.argv[1], "out", epochs=1, val_dataset=dataset, device="cpu"
)
engine.finetune()
model = engine.get_finetuned_model()
assert len(model.get_query_embedding("ask amber")) == 32
adapter = EmbeddingAdapterFinetuneEngine(dataset, model, model_output_path="adapter", device="cpu")
adapter.finetune()
assert len(api.load_finetuned_model("adapter", model).get_query_embedding("ask amber")) == 32
"""
TYPED_PROGRAM = """
from llama_index.core import Settings
from llama_index.core.base.embeddings.base import BaseEmbedding
from typing_extensions import assert_type

from llama_index.finetuning import EmbeddingQAFinetuneDataset as OldName
from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    LinearLayer,
    RetrievalReport,
    SentenceTransformersFinetuneEngine,
    compare_retrieval,
    evaluate_retrieval,
    load_finetuned_model,
    mine_hard_negatives,
)
from llama_index.finetuning.openai import OpenAIFinetuneEngine


def better(path: str, base: BaseEmbedding) -> BaseEmbedding:
    data = EmbeddingQAFinetuneDataset.from_json(path)
    assert_type(data, EmbeddingQAFinetuneDataset)
    old: type[EmbeddingQAFinetuneDataset] = OldName
    train, val = data.train_test_split(test_size=0.2, seed=1)
    mined = mine_hard_negatives(train, base, num_negatives=2)
    assert_type(mined, EmbeddingQAFinetuneDataset)
    engine = SentenceTransformersFinetuneEngine(mined, "some/model", val_dataset=val)
    engine.finetune()
    adapter = EmbeddingAdapterFinetuneEngine(train, base, adapter_model=LinearLayer(8, 8))
    adapter.finetune()
    assert_type(adapter.get_finetuned_model(), BaseEmbedding)
    AdapterEmbeddingModel(base, "out").get_query_embedding("?")
    score: float = evaluate_retrieval(base, val).metrics["ndcg@10"]
    report = compare_retrieval({"base": base, "tuned": load_finetuned_model("out")}, val)
    assert_type(report, RetrievalReport)
    OpenAIFinetuneEngine("gpt-4o-mini", "data.jsonl").finetune()
    Settings.embed_model = engine.get_finetuned_model()
    print(old, score)
    return engine.get_finetuned_model()
"""
WRONGLY_TYPED = """

better(3, None)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_it_holds_the_namespace_and_nothing_above_it(wheel):
    """Only llama_index/finetuning and metadata; no __init__ that would hide llama-index-core."""
    names = zipfile.ZipFile(wheel).namelist()
    ours = "llama_index/finetuning/"
    assert all(name.startswith((ours, "llama_index_finetuning_embeddings-")) for name in names)
    assert ours + "embeddings/py.typed" in names
    assert ours + "embeddings/report/page.css" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a new environment with the wheel."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    # The dependencies are those of this environment; a path in a .pth file brings them without
    # this environment's own .pth files, so that an editable install of the checkout is not seen.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_it_finetunes_from_a_new_environment(python, tiny_bert_dir, tmp_path):
    """Imports, old and new, and a small finetune both ways work from the installed wheel."""
    subprocess.run(
        [python, "-c", SMALL_FINETUNE, str(tiny_bert_dir)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert (tmp_path / "out" / "modules.json").is_file()


@pytest.mark.parametrize(("calls", "errors"), [("", 0), (WRONGLY_TYPED, 2)], ids=["right", "wrong"])
def test_a_typed_program_checks_against_it(python, tmp_path, calls, errors):
    """The installed package is typed: mypy accepts right use and finds wrong arguments."""
    program = tmp_path / "program.py"
    program.write_text(TYPED_PROGRAM + calls)
    options = ["--strict", "--no-error-summary", "--cache-dir", str(python.parents[1] / "mypy")]
    mypy = [sys.executable, "-m", "mypy", "--python-executable", str(python), *options]
    found = subprocess.run(
        [*mypy, str(program)], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.count("error:") == errors, found.stdout + found.stderr
    assert found.stdout.count("[arg-type]") == errors
