"""Evaluating rankings, vectors and models, and judgements of relevance."""

import numpy as np
import pytest
from fakes import HashEmbedding, tiny_dataset

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
)
from llama_index.finetuning.embeddings.evaluation import (
    evaluate_rankings,
    evaluate_retrieval,
    evaluate_vectors,
)
from llama_index.finetuning.embeddings.evaluation.judgements import Judgements


def dataset_of(relevant_docs, n_documents=4):
    """Return a dataset with given judgements over documents d0, d1, ..."""
    return EmbeddingQAFinetuneDataset(
        queries={qid: f"text of {qid}" for qid in relevant_docs},
        corpus={f"d{i}": f"document {i}" for i in range(n_documents)},
        relevant_docs=relevant_docs,
    )


def test_rankings_are_scored_per_query_and_in_the_mean():
    """Ranks 2 and 1 of the relevant documents give reciprocal ranks 1/2 and 1, mean 3/4."""
    dataset = dataset_of({"a": ["d3"], "b": ["d0"]})
    result = evaluate_rankings(np.array([[1, 3], [0, 2]]), dataset, k_values=[2])
    assert result.per_query["mrr@2"].tolist() == [0.5, 1.0]
    assert result.metrics["mrr@2"] == 0.75
    assert result.metrics["precision@2"] == 0.5
    assert result.scores.tolist() == [[2, 1], [2, 1]]
    assert result.to_dict()["per_query"]["mrr@2"] == {"a": 0.5, "b": 1.0}
    assert sorted(result.metrics) == sorted(
        [f"{name}@2" for name in ("ndcg", "mrr", "recall", "hit_rate", "map", "precision")]
        + ["map@100"]
    )


def test_minus_one_stands_for_no_document():
    """A ranking that ends early misses what it does not name, and hits nothing by accident."""
    dataset = dataset_of({"a": ["d3"], "b": ["d3"]})
    result = evaluate_rankings(np.array([[-1, -1], [3, -1]]), dataset, k_values=[2])
    assert result.per_query["recall@2"].tolist() == [0, 1]


def test_a_relevant_document_named_twice_counts_once():
    """Recall of one document that is listed twice is 1, not 1/2."""
    dataset = dataset_of({"a": ["d1", "d1"]})
    assert evaluate_rankings(np.array([[1]]), dataset, k_values=[1]).metrics["recall@1"] == 1


def test_graded_relevance_takes_the_place_of_relevant_docs():
    """d2 counts 3 and d1 counts 1 and d0 nothing: nDCG@2 of (d1, d2) is below 1."""
    dataset = dataset_of({"a": ["d0"]})
    relevance = {"a": {"d2": 3, "d1": 1, "d0": 0, "in another part": 0}, "no query": {}}
    result = evaluate_rankings(np.array([[1, 2]]), dataset, k_values=[2], relevance=relevance)
    expected = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
    assert result.metrics["ndcg@2"] == pytest.approx(expected)
    assert result.metrics["recall@2"] == 1


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ({}, "1 queries have no document above 0 in 'relevance': 'a'"),
        ({"a": {"d0": 0}}, "1 queries have no document above 0"),
        ({"a": {"d9": 1}}, r"not in the corpus: 'd9 \(of query a\)'"),
        ({"a": ["d0"]}, "must map each query id to a mapping"),
        (["a"], "must map each query id to a mapping"),
        ({"a": {"d0": float("inf")}}, "negative or not finite"),
        ({"a": {"d0": "2"}}, "no number, negative"),
        ({"a": {"d0": 1, "d1": -1}}, r"negative or not finite: 'd1 \(of query a\): -1'"),
        ({"a": {"d0": float("nan")}}, "negative or not finite"),
    ],
)
def test_judgements_that_do_not_fit_are_refused_before_embedding(relevance, message):
    """The message names the ids, and the model was not called."""
    model = HashEmbedding()
    with pytest.raises(DatasetError, match=message):
        evaluate_retrieval(model, dataset_of({"a": ["d0"]}), relevance=relevance)
    assert model.query_calls == 0
    assert model.text_batches == []


def test_a_long_chain_is_one_cluster():
    """Each query shares a chunk with the next one, in any order; one apart keeps its own label."""
    n_queries = 3000
    places = np.random.default_rng(0).permutation(n_queries).tolist()
    relevant_docs = {f"q{i}": [f"d{i}", f"d{i + 1}"] for i in places}
    relevant_docs = {"apart": [f"d{n_queries + 1}"], **relevant_docs}
    dataset = dataset_of(relevant_docs, n_documents=n_queries + 2)
    labels = Judgements(dataset).clusters()
    assert labels.shape == (n_queries + 1,)
    assert labels[0] == 0
    assert set(labels[1:].tolist()) == {1}


def test_queries_that_share_documents_form_clusters():
    """Query b shares d0 with a and d1 with c, so the three are one cluster; e stands alone."""
    dataset = dataset_of({"a": ["d0"], "e": ["d3"], "b": ["d1", "d0"], "c": ["d1"]})
    labels = Judgements(dataset).clusters().tolist()
    assert labels[0] == labels[2] == labels[3]
    assert labels[1] != labels[0]
    assert sorted(set(labels)) == [0, 1]


def test_copies_are_not_independent():
    """A query or a document that stands there twice, spaces aside, makes one cluster of its own."""
    relevant_docs = {"a": ["d0"], "b": ["d1"], "c": ["d2"], "d": ["d3"]}
    dataset = dataset_of(relevant_docs, n_documents=4)
    dataset.corpus["d1"] = f" {dataset.corpus['d0']}  "
    dataset.queries["d"] = f"{dataset.queries['c']} "
    assert Judgements(dataset).clusters().tolist() == [0, 0, 1, 1]


def test_vectors_are_searched_in_the_order_of_the_dataset():
    """Query a points at d1, b at d0: both find theirs first."""
    dataset = dataset_of({"a": ["d1"], "b": ["d0"]}, n_documents=2)
    result = evaluate_vectors([[0.0, 1.0], [1.0, 0.1]], np.eye(2), dataset, k_values=[1])
    assert result.indices[:, 0].tolist() == [1, 0]
    assert result.metrics["hit_rate@1"] == 1
    assert result.dim == 2


def test_dot_product_is_an_option():
    """A long document beats the one in the right direction only by dot product."""
    dataset = dataset_of({"a": ["d0"]}, n_documents=2)
    documents = [[1.0, 0.0], [9.0, 9.0]]
    for similarity, expected in (("cosine", 1), ("dot", 0)):
        result = evaluate_vectors(
            [[1.0, 0.0]], documents, dataset, k_values=[1], similarity=similarity
        )
        assert result.metrics["hit_rate@1"] == expected


def test_the_similarity_reaches_the_search_for_a_model():
    """A model whose longer texts have longer vectors is searched differently by dot product."""

    class LongVectors(HashEmbedding):
        def vector(self, text):
            return [number * len(text) for number in super().vector(text)]

    found = [
        evaluate_retrieval(LongVectors(), tiny_dataset(), similarity=one).scores.max()
        for one in ("cosine", "dot")
    ]
    assert found[0] <= 1 < found[1]


def test_a_model_is_evaluated_with_each_text_embedded_once():
    """Documents that share a text are embedded once; queries go through the query side."""
    dataset = tiny_dataset()
    dataset.corpus["copy"] = dataset.corpus["d0"]
    model = HashEmbedding()
    result = evaluate_retrieval(model, dataset)
    assert sorted(model.texts_seen) == sorted(set(dataset.corpus.values()))
    assert model.query_calls == len(set(dataset.queries.values()))
    assert result.metrics["ndcg@10"] > 0.5
    assert result.query_ids == list(dataset.queries)


def test_options_of_evaluate_retrieval_reach_their_place(tmp_path, capsys):
    """Cut-offs, judgements, the cache and the progress bar all do something."""
    dataset = tiny_dataset()
    relevance = {qid: {"d0": 1.0} for qid in dataset.queries}
    first, second = HashEmbedding(), HashEmbedding()
    for model in (first, second):
        result = evaluate_retrieval(
            model,
            dataset,
            k_values=[2],
            similarity="dot",
            relevance=relevance,
            cache_dir=tmp_path,
            show_progress=True,
        )
    assert "ndcg@2" in result.metrics
    assert "ndcg@10" not in result.metrics
    assert result.metrics["recall@2"] < evaluate_retrieval(first, dataset).metrics["recall@3"]
    assert second.query_calls == 0
    assert "Embedding" in capsys.readouterr().err


def test_equals_sentence_transformers_where_definitions_agree(tiny_model_dir):
    """With one relevant document per query all of its metrics equal ours."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.evaluation import (
            InformationRetrievalEvaluator,
        )
    except ModuleNotFoundError:
        from sentence_transformers.evaluation import InformationRetrievalEvaluator
    dataset = tiny_dataset(n_documents=30)
    model = SentenceTransformer(str(tiny_model_dir), device="cpu")
    evaluator = InformationRetrievalEvaluator(
        dataset.queries,
        dataset.corpus,
        {qid: set(found) for qid, found in dataset.relevant_docs.items()},
        show_progress_bar=False,
        write_csv=False,
        accuracy_at_k=[1, 3, 10],
        precision_recall_at_k=[1, 3, 10],
        mrr_at_k=[1, 3, 10],
        ndcg_at_k=[1, 3, 10],
    )
    theirs = evaluator(model)
    ours = evaluate_vectors(
        model.encode(list(dataset.queries.values())),
        model.encode(list(dataset.corpus.values())),
        dataset,
        k_values=[1, 3, 10],
    ).metrics
    names = {"accuracy": "hit_rate"}
    for key, value in theirs.items():
        metric = key.removeprefix("cosine_")
        kind, _, k = metric.partition("@")
        assert ours[f"{names.get(kind, kind)}@{k}"] == pytest.approx(value, abs=1e-9)
    assert len(theirs) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"k_values": one}, "'k_values' must hold one") for one in ([], [0, 1], [10.0], 10)),
        ({"similarity": "euclid"}, r"'similarity' must be in .* \(got 'euclid'\)"),
    ],
)
def test_arguments_out_of_range_are_refused_before_embedding(options, message):
    """What can't work is named, and the model was not called."""
    model = HashEmbedding()
    with pytest.raises(ConfigurationError, match=message):
        evaluate_retrieval(model, tiny_dataset(), **options)
    assert model.query_calls == 0


def test_cut_offs_may_be_an_array():
    """NumPy's numbers are numbers, also beyond the usual depth of a ranking."""
    dataset = tiny_dataset(n_documents=150, queries_per_document=1)
    metrics = evaluate_retrieval(HashEmbedding(dim=2), dataset, k_values=np.array([1, 150])).metrics
    assert metrics["recall@150"] == 1
    assert metrics["recall@1"] < 1


def test_queries_that_stand_in_the_corpus_are_counted(caplog):
    """By their text, or behind a title under their own id; their own answer and strangers not."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber bridge", "b": "candle", "c": "desert", "d": "ember"},
        corpus={"x": "amber  bridge", "b": "Title candle", "c": "desert", "d": "ember forest"},
        relevant_docs={"a": ["d"], "b": ["d"], "c": ["c"], "d": ["x"]},
    )
    evaluate_retrieval(HashEmbedding(), dataset)
    assert "2 of 4 queries stand in the corpus themselves" in caplog.text
    caplog.clear()
    evaluate_retrieval(HashEmbedding(), tiny_dataset())
    assert caplog.text == ""


@pytest.mark.parametrize(("n_queries", "n_documents"), [(2, 12), (24, 3)])
def test_vectors_of_another_dataset_are_refused(n_queries, n_documents):
    """A missing row would shift all others, so the counts must agree."""
    with pytest.raises(ConfigurationError, match="must have one row for each of the dataset's"):
        evaluate_vectors(np.ones((n_queries, 2)), np.ones((n_documents, 2)), tiny_dataset())


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0]], r"one row for each of the dataset's 2 entries.* \(got 1 rows\)"),
        ([0, 1], r"shape \(n_queries, depth\) \(got \(2,\)\)"),
        ([[], []], r"shape \(n_queries, depth\) \(got \(2, 0\)\)"),
        ([[0, 4], [0, 1]], r"below 4, or -1 \(got 0 to 4\)"),
        ([[0, -2], [0, 1]], r"below 4, or -1 \(got -2 to 1\)"),
        ([[0], [1, 2]], "rows of equal length"),
        ([[0.0], [1.0]], r"whole numbers \(got float64\)"),
        ([[-1, -1], [2, 2]], "once per query \\(the ranking of 'b' does not"),
    ],
)
def test_rankings_that_do_not_fit_are_refused(indices, message):
    """Missing rows, rows that are no document and documents named twice would all mislead."""
    dataset = dataset_of({"a": ["d0"], "b": ["d1"]})
    with pytest.raises(ConfigurationError, match=message):
        evaluate_rankings(indices, dataset)
