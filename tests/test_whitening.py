"""Whitened queries: a matrix from the documents' spread, behind an encoder or an adapter."""

import functools
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_dataset
from llama_index.core.base.embeddings.base import BaseEmbedding
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    LinearLayer,
    OutputError,
    TwoLayerNN,
    evaluate_retrieval,
    load_finetuned_model,
    merge_with_base,
    upstream,
)
from llama_index.finetuning.embeddings.adapter.selection import folded
from llama_index.finetuning.embeddings.manifest import read_manifest
from llama_index.finetuning.embeddings.sentence_transformer import frozen_documents
from llama_index.finetuning.embeddings.whitening import (
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
    """A variance times k loses the weight k ** 0.15; all weights are 1 on average."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([4.0, 2.0, 1.0, 1.0]).sqrt()
    documents = torch.randn(20_000, 4, generator=generator) * spread
    # On the sphere they would not keep their variances: one more dimension holds them close.
    documents = torch.cat([documents, torch.full((20_000, 1), 100.0)], dim=1)
    matrix = whitening_matrix(documents)
    assert torch.equal(matrix, matrix.T)
    weights = torch.diagonal(matrix)[:4]
    expected = torch.tensor([4.0, 2.0, 1.0, 1.0]) ** -0.15
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
        torch.eye(MIN_DOCUMENTS).fill_diagonal_(torch.nan),
    ],
    ids=["few", "all the same", "zeros", "not finite"],
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


def test_the_start_whitened_is_not_passed_by(helpful, caplog):
    """Steps are chosen without the matrix; one that the start beats with it is not handed back."""
    val = tiny_dataset(150, 1)
    settings = {"evaluation_steps": 1, "epochs": 4, "batch_size": 50}
    run = helpful(1.0, val_dataset=val, training_args={"learning_rate": 0.0}, **settings)
    run.finetune()
    start = read_manifest(Path(run.model_output_path))["metrics"]["after"]["ndcg@10"]
    run = helpful(1.0, val_dataset=val, training_args={"learning_rate": 3e-3}, **settings)
    with caplog.at_level(logging.WARNING):
        run.finetune()
    facts = read_manifest(Path(run.model_output_path))
    best = max(entry.get("eval_cosine_ndcg@10", 0.0) for entry in facts["training_log"])
    assert facts["metrics"]["before"]["ndcg@10"] < best < start  # a step was better unwhitened
    assert facts["metrics"]["best_step"] == 0
    # Rounding shows in the helpful matrix, which few queries settle.
    assert facts["metrics"]["after"]["ndcg@10"] == pytest.approx(start, abs=0.01)
    assert "with the queries whitened" in caplog.text
    short = helpful(
        1.0, val_dataset=val, training_args={"learning_rate": 3e-3}, max_seq_length=6, **settings
    )
    own = short.model.max_seq_length
    short.finetune()
    facts = read_manifest(Path(short.model_output_path))
    assert facts["metrics"]["best_step"] == 0
    assert facts["parameters"]["whiten_queries"]
    assert short.model.max_seq_length == own
    served = evaluate_retrieval(short.get_finetuned_model(), val).metrics["ndcg@10"]
    assert served == pytest.approx(facts["metrics"]["after"]["ndcg@10"], abs=1e-3)


def test_a_failed_save_tells_that_the_matrix_is_not_in_the_weights(helpful, monkeypatch):
    """``engine.model.save`` would leave it out, and with it what was measured."""
    run = helpful(1.0, val_dataset=tiny_dataset(150, 1), evaluation_steps=0)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SentenceTransformer, "save_pretrained", full)
    with pytest.raises(OutputError, match=r"model.save\(path\) .*without the matrix that whitens"):
        run.finetune()


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


def test_weights_in_half_precision_are_not_whitened(query_engine):
    """A Router would load the matrix in another precision than what stands before it."""
    run = query_engine(model_kwargs={"dtype": torch.bfloat16})
    run.finetune()
    router = SentenceTransformer(run.model_output_path, device="cpu")
    expected = run.model.encode(QUERIES, convert_to_tensor=True).float().cpu()
    found = router.encode_query(QUERIES, convert_to_tensor=True).float().cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_a_base_that_whitens_keeps_its_matrix(query_engine, tmp_path):
    """Its own stays in front of the new one, also in the engine, and where it is merged."""
    first = query_engine()
    first.finetune()
    base = str(shutil.copytree(Path(first.model_output_path) / "query", tmp_path / "base"))
    rate = {"training_args": {"learning_rate": 1e-12}}
    run = query_engine(model_id=base, model_output_path=str(tmp_path / "second"), **rate)
    names = [name for name, _ in run.model.named_parameters()]
    run.finetune()
    assert [name for name, _ in run.model.named_parameters()] == names
    plain = SentenceTransformer(base, device="cpu").encode(QUERIES)
    expected = unit(plain @ run._task.frozen_documents.whitening.numpy())
    router = SentenceTransformer(run.model_output_path, device="cpu")
    np.testing.assert_allclose(unit(router.encode_query(QUERIES)), expected, atol=1e-4)
    merge_with_base(run.model_output_path, base, tmp_path / "merged", weight=0.0)
    merged = SentenceTransformer(str(tmp_path / "merged" / "query"), device="cpu")
    np.testing.assert_allclose(merged.encode(QUERIES), plain, atol=1e-5)
    both = query_engine(model_id=base, model_output_path=str(tmp_path / "both"), train="both")
    both.finetune()
    assert [name for name, _ in both.model.named_parameters()] == names


def test_an_interrupt_leaves_nothing_half_done(query_engine, monkeypatch):
    """After one while documents are embedded, a further run whitens as the first would have."""
    run = query_engine()
    encode = SentenceTransformer.encode
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.finetune()
    run.finetune()
    assert read_manifest(Path(run.model_output_path))["parameters"]["whiten_queries"] is True


class GivenVectors(BaseEmbedding):
    """An embedding model that looks its vectors up."""

    vectors: dict[str, list[float]]

    def _get_text_embedding(self, text):
        return self.vectors[text]

    def _get_query_embedding(self, query):
        return self.vectors[query]

    async def _aget_query_embedding(self, query):
        return self.vectors[query]


@pytest.fixture(scope="module")
def noisy():
    """Training and test data, and a base: queries are lost in what all documents share.

    Documents spread widely in two directions, by which queries miss theirs at random; in the
    other thirty they spread little, and queries meet theirs.
    """
    generator = np.random.default_rng(0)
    spread = np.array([2.0, 2.0] + [0.25] * 30)
    vectors, sets = {}, []
    for side in ("train", "test"):
        documents = generator.normal(size=(150, 32)) * spread
        error = generator.normal(size=(150, 32)) * np.array([1.0, 1.0] + [0.2] * 30)
        corpus = {f"d{i}": f"{side} text {i}" for i in range(150)}
        queries = {f"q{i}": f"{side} query {i}" for i in range(150)}
        vectors |= dict(zip(corpus.values(), documents.tolist(), strict=True))
        vectors |= dict(zip(queries.values(), (documents + error).tolist(), strict=True))
        relevant = {f"q{i}": [f"d{i}"] for i in range(150)}
        sets.append(
            EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)
        )
    return *sets, GivenVectors(model_name="given", vectors=vectors)


@pytest.fixture
def adapter_engine(noisy, tmp_path):
    """Return a function that makes an adapter engine over the noisy data."""
    train, _, base = noisy

    def make(**settings):
        usual = {"model_output_path": str(tmp_path / "adapter"), "device": "cpu"}
        return EmbeddingAdapterFinetuneEngine(
            train, base, show_progress_bar=False, **{**usual, **settings}
        )

    return make


def test_a_whitened_layer_is_the_matrix_behind_the_layer():
    """Of the bias as well; the layer itself stays."""
    layer = LinearLayer(4, 4, bias=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    before = layer(torch.eye(4)).detach()
    matrix = torch.diag(torch.arange(1.0, 5.0))
    torch.testing.assert_close(folded(layer, matrix)(torch.eye(4)), before @ matrix)
    torch.testing.assert_close(layer(torch.eye(4)), before)


def test_cross_validation_whitens_where_that_helps(adapter_engine, noisy):
    """The folder holds training and matrix in one, the summary says so, and the test gains."""
    run = adapter_engine()
    run.finetune()
    assert "then whitened" in run.summary
    facts = read_manifest(Path(run._model_output_path))
    assert facts["metrics"]["whitened"] is True
    candidates = facts["metrics"]["cross_validation"]["candidates"]
    tried = [one for one in candidates if one["whitened"]]
    assert [one["stages"] for one in tried] == [0, 1, 2, 3, 4]
    gain = facts["metrics"]["after"]["ndcg@10"] - facts["metrics"]["before"]["ndcg@10"]
    assert any(one["gain"] == pytest.approx(gain) for one in tried)
    _, test, base = noisy
    model = run.get_finetuned_model()
    scores = [evaluate_retrieval(one, test).metrics["ndcg@10"] for one in (base, model)]
    assert scores[1] > scores[0] + 0.05
    plain = adapter_engine(whiten_queries=False)
    plain.finetune()
    assert scores[1] > evaluate_retrieval(plain.get_finetuned_model(), test).metrics["ndcg@10"]
    assert np.allclose(model.to_numpy(), run.model.linear.weight.detach().numpy())


@pytest.mark.parametrize(
    "settings",
    [
        {"whiten_queries": False},
        {"transform": "both"},
        {"adapter_model": TwoLayerNN(32, 8, 32, add_residual=True)},
    ],
    ids=["asked not to", "documents too", "no matrix"],
)
def test_adapters_that_are_not_whitened(adapter_engine, settings):
    """Cross-validation then has the strengths of training alone to choose from."""
    run = adapter_engine(**settings)
    run.finetune()
    facts = read_manifest(Path(run._model_output_path))
    assert facts["metrics"]["whitened"] is False
    candidates = facts["metrics"]["cross_validation"]["candidates"]
    assert not any(one["whitened"] for one in candidates)
    assert "whitened" not in run.summary


def test_what_is_told_is_not_whitened(adapter_engine, noisy):
    """Epochs that are passed are trained, and nothing else is done."""
    weights = []
    for whiten in (True, False):
        run = adapter_engine(epochs=2, whiten_queries=whiten)
        run.finetune()
        weights.append(run.model.linear.weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_validation_set_decides_on_the_adapter_too(adapter_engine, noisy, monkeypatch, sign):
    """The best step is whitened where that scores better, and stays as it is otherwise."""
    _, test, _ = noisy
    monkeypatch.setattr(
        "llama_index.finetuning.embeddings.adapter.run.whitening_matrix",
        lambda documents: sign * whitening_matrix(documents),
    )
    run = adapter_engine(val_dataset=test)
    run.finetune()
    assert ("then whitened" in run.summary) == (sign > 0)
    facts = read_manifest(Path(run._model_output_path))
    assert facts["metrics"]["whitened"] is (sign > 0)
    served = evaluate_retrieval(run.get_finetuned_model(), test).metrics["ndcg@10"]
    assert served == pytest.approx(facts["metrics"]["after"]["ndcg@10"], abs=1e-6)
    assert served > facts["metrics"]["before"]["ndcg@10"]


def test_an_adapter_is_whitened_once(adapter_engine, noisy):
    """Training that goes on from a whitened one adds no second matrix."""
    train, test, base = noisy
    run = adapter_engine(val_dataset=test)
    run.finetune()
    assert "then whitened" in run.summary
    run.finetune()
    assert "then whitened" not in run.summary
    folder = run._model_output_path
    again = EmbeddingAdapterFinetuneEngine.from_model_path(
        train, base, folder, model_output_path=folder, val_dataset=test, device="cpu"
    )
    again.finetune()
    assert "then whitened" not in again.summary


def test_every_cross_validation_may_whiten(adapter_engine):
    """It starts from the adapter as the engine was given it, whatever was trained before."""
    run = adapter_engine()
    run.finetune(auto=False)
    run.finetune()
    first = run.model.linear.weight.detach().clone()
    assert "then whitened" in run.summary
    run.finetune()
    assert torch.equal(run.model.linear.weight, first)


def test_documents_of_both_sets_count_once(noisy, tmp_path):
    """Training and validation over one corpus of 75 documents are too few to whiten by."""
    train, _, base = noisy
    halves = [
        EmbeddingQAFinetuneDataset(
            queries={qid: train.queries[qid] for qid in qids},
            corpus=dict(list(train.corpus.items())[:75]),
            relevant_docs={qid: train.relevant_docs[qid] for qid in qids},
        )
        for qids in ([f"q{i}" for i in range(0, 75, 2)], [f"q{i}" for i in range(1, 75, 2)])
    ]
    run = EmbeddingAdapterFinetuneEngine(
        halves[0],
        base,
        val_dataset=halves[1],
        negatives="corpus",
        model_output_path=str(tmp_path / "adapter"),
        device="cpu",
        show_progress_bar=False,
    )
    run.finetune()
    assert "whitened" not in run.summary
