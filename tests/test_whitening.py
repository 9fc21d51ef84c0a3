"""Whitened queries: a matrix from the documents' spread, behind the tuned encoder."""

import functools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_dataset
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import (
    evaluate_retrieval,
    load_finetuned_model,
    merge_with_base,
)
from llama_index.finetuning.embeddings.manifest import read_manifest
from llama_index.finetuning.embeddings.sentence_transformer import frozen_documents, upstream
from llama_index.finetuning.embeddings.sentence_transformer.whitening import (
    MIN_DOCUMENTS,
    whitening_matrix,
)

QUERIES = ["ask 0 amber bridge", "ask 1 river engine"]


def unit(vectors):
    """Return rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def dataset():
    """Enough documents to whiten by: two thirds are asked for, the rest are not."""
    made = tiny_dataset(150, 1)
    for qid in list(made.queries)[100:]:
        del made.queries[qid], made.relevant_docs[qid]
    return made


@pytest.fixture
def query_engine(engine, dataset):
    """Return a function that makes a query-only engine over the tiny BERT."""
    return functools.partial(engine, dataset=dataset, train="query", epochs=1)


def test_directions_of_much_variance_lose_weight():
    """A variance times k loses the weight k ** 0.2; all weights are 1 on average."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([4.0, 2.0, 1.0, 1.0]).sqrt()
    documents = torch.randn(20_000, 4, generator=generator) * spread
    # On the sphere they would not keep their variances: one more dimension holds them close.
    documents = torch.cat([documents, torch.full((20_000, 1), 100.0)], dim=1)
    matrix = whitening_matrix(documents)
    assert torch.equal(matrix, matrix.T)
    weights = torch.diagonal(matrix)[:4]
    expected = torch.tensor([4.0, 2.0, 1.0, 1.0]) ** -0.2
    torch.testing.assert_close(weights / weights[3], expected, rtol=0.02, atol=0)
    assert torch.linalg.eigvalsh(matrix).mean() == pytest.approx(1)


def test_few_documents_are_trusted_less():
    """Of random vectors in 384 dimensions the matrix is the closer to none the fewer there are."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.1, 2, 384)
    documents = torch.randn(4_000, 384, generator=generator) * spread
    far = [
        float((whitening_matrix(documents[:count]) - torch.eye(384)).norm())
        for count in (100, 400, 4_000)
    ]
    assert far == sorted(far)


@pytest.mark.parametrize(
    "documents",
    [
        torch.eye(MIN_DOCUMENTS - 1),
        torch.ones(MIN_DOCUMENTS, 8),
        torch.zeros(MIN_DOCUMENTS, 8),
    ],
    ids=["few", "all the same", "zeros"],
)
def test_no_matrix_without_a_spread(documents):
    """Too few documents or all the same ones tell nothing."""
    assert whitening_matrix(documents) is None


@pytest.mark.parametrize("normalizes", [False, True])
def test_the_folder_whitens_queries_and_no_document(
    query_engine, tiny_bert_dir, tmp_path, normalizes
):
    """The engine's own model does not, and the documents' vectors are the base's."""
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    if normalizes:
        base.append(upstream.modules().Normalize())
        base.save(str(tmp_path / "base"))
    run = query_engine(model_id=str(tmp_path / "base" if normalizes else tiny_bert_dir))
    run.finetune()
    documents = run._task.frozen_documents
    plain = run.model.encode(QUERIES)
    expected = unit(plain @ documents.whitening.numpy())
    assert not np.allclose(expected, unit(plain), atol=1e-3)
    router = SentenceTransformer(run.model_output_path, device="cpu")
    found = router.encode_query(QUERIES)
    np.testing.assert_allclose(unit(found), expected, atol=1e-5)
    if normalizes:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for model in (run.get_finetuned_model(), load_finetuned_model(run.model_output_path)):
        vectors = [model.get_query_embedding(query) for query in QUERIES]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        np.testing.assert_allclose(
            model.get_text_embedding_batch(QUERIES), unit(base.encode(QUERIES)), atol=1e-5
        )
    assert read_manifest(Path(run.model_output_path))["parameters"]["whiten_queries"] is True


def test_a_second_run_trains_what_the_first_one_trained(query_engine):
    """Whitening is no weight: it neither piles up nor goes into the training."""
    run = query_engine()
    run.finetune()
    names = [name for name, _ in run.model.named_parameters()]
    matrix = run._task.frozen_documents.whitening.clone()
    run.finetune()
    assert [name for name, _ in run.model.named_parameters()] == names
    assert torch.equal(run._task.frozen_documents.whitening, matrix)
    expected = unit(run.model.encode(QUERIES) @ matrix.numpy())
    saved = SentenceTransformer(run.model_output_path, device="cpu").encode_query(QUERIES)
    np.testing.assert_allclose(unit(saved), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"whiten_queries": False}, {"matryoshka_dims": [16]}, {"dataset": tiny_dataset(20, 1)}],
    ids=["asked not to", "prefixes", "few documents"],
)
def test_queries_that_are_not_whitened(query_engine, settings):
    """The folder then ends as the base does."""
    run = query_engine(**settings)
    run.finetune()
    saved = SentenceTransformer(run.model_output_path, device="cpu")
    expected = run.model.encode(QUERIES)
    np.testing.assert_allclose(saved.encode_query(QUERIES), expected, atol=1e-6)
    assert read_manifest(Path(run.model_output_path))["parameters"]["whiten_queries"] is False


def test_documents_that_no_query_asks_for_count_by_their_beginning(query_engine, monkeypatch):
    """They show the spread too, but a few tokens of each are enough; prompts stand before them."""
    monkeypatch.setattr(frozen_documents, "_TOKENS_OF_OTHERS", 6)
    run = query_engine(text_prompt="passage: ")
    seen = {}
    encode = SentenceTransformer.encode

    def watched(self, texts, **kwargs):
        seen[self.max_seq_length] = list(texts)
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", watched)
    frozen = run._task.frozen_documents
    frozen.encode(run.model, None, {})
    texts = list(run.dataset.corpus.values())
    assert {length: len(found) for length, found in seen.items()} == {32: 100, 6: 50}
    assert set(seen[32]) == set(texts[:100])
    assert set(seen[6]) == set(texts[100:])
    assert run.model.max_seq_length == 32
    cut = [" ".join(["passage:", *text.split()[:3]]) for text in seen[6]]
    vectors = torch.cat([frozen.vectors, torch.from_numpy(encode(run.model, cut))])
    torch.testing.assert_close(frozen.whitening, whitening_matrix(vectors), rtol=0, atol=1e-5)


@pytest.fixture
def helpful(query_engine, monkeypatch):
    """Return a query-only engine whose whitening is the best matrix for its queries."""

    def best(vectors, *, sign=1.0):
        model = run.model
        asked = torch.from_numpy(model.encode(list(run.dataset.queries.values()))).double()
        target = torch.from_numpy(model.encode(list(run.dataset.corpus.values())[:100])).double()
        return sign * torch.linalg.lstsq(asked, target).solution.T.float()

    def make(sign, **settings):
        monkeypatch.setattr(
            frozen_documents, "whitening_matrix", functools.partial(best, sign=sign)
        )
        nonlocal run
        run = query_engine(**settings)
        return run

    run = None
    return make


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_validation_set_decides(helpful, caplog, sign):
    """A matrix that helps stays, one that turns every ranking round goes; the report shows it."""
    val = tiny_dataset(150, 1)
    run = helpful(sign, val_dataset=val, training_args={"learning_rate": 0.0}, evaluation_steps=0)
    with caplog.at_level(logging.WARNING):
        run.finetune()
    facts = read_manifest(Path(run.model_output_path))
    before, after = (facts["metrics"][name]["ndcg@10"] for name in ("before", "after"))
    assert facts["parameters"]["whiten_queries"] is (sign > 0)
    if sign > 0:
        assert after > before + 0.1
        assert "with the queries whitened" in caplog.text
    else:
        assert after == before
        assert "the base is handed back unchanged" in caplog.text
    served = evaluate_retrieval(run.get_finetuned_model(), val).metrics["ndcg@10"]
    assert served == pytest.approx(after, abs=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_merging_mixes_the_matrix_with_the_identity(query_engine, tiny_bert_dir, tmp_path, weight):
    """None of it is the base's queries, all of it the finetuned folder's."""
    run = query_engine()
    run.finetune()
    merged = merge_with_base(
        run.model_output_path, tiny_bert_dir, tmp_path / "merged", weight=weight
    )
    query = SentenceTransformer(str(Path(merged) / "query"), device="cpu")
    matrix = run._task.frozen_documents.whitening
    expected = weight * matrix + (1 - weight) * torch.eye(32)
    torch.testing.assert_close(query.whitening.linear.weight.data, expected, rtol=0, atol=1e-6)
    if weight != 0.5:
        source = tiny_bert_dir if weight == 0 else Path(run.model_output_path) / "query"
        theirs = SentenceTransformer(str(source), device="cpu")
        np.testing.assert_allclose(query.encode(QUERIES), theirs.encode(QUERIES), atol=1e-5)


def test_weights_in_half_precision(query_engine):
    """The matrix takes the precision that the weights have."""
    run = query_engine(model_kwargs={"dtype": torch.bfloat16})
    run.finetune()
    vector = np.array(run.get_finetuned_model().get_query_embedding(QUERIES[0]))
    plain = run.model.encode(QUERIES[:1], convert_to_tensor=True).float().cpu()
    expected = unit((plain @ run._task.frozen_documents.whitening).numpy())[0]
    assert float(unit(vector) @ expected) == pytest.approx(1, abs=1e-3)
