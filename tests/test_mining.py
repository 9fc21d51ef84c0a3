"""Hard negatives: the meaning of every limit, what is never a negative, and exactness."""

import logging
import sys
from typing import Any

import numpy as np
import pytest
from fakes import HashEmbedding, tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import PrivateAttr
from strategies import datasets

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    EmbeddingQAFinetuneDataset,
    EncodingError,
    MissingExtraError,
)
from llama_index.finetuning.embeddings.duplicates import text_key
from llama_index.finetuning.embeddings.mining import mine_hard_negatives, ranking
from llama_index.finetuning.embeddings.mining.ranking import faiss_search
from llama_index.finetuning.embeddings.mining.rule import Rule
from llama_index.finetuning.embeddings.search import top_k

# The cosine of each document with the query; the positive's is 0.8.
SCORES = {"pos": 0.8, "d90": 0.9, "d79": 0.79, "d70": 0.7, "d50": 0.5, "d10": 0.1, "dm20": -0.2}


class PlaneEmbedding(HashEmbedding):
    """Names in ``SCORES``, and "at x", lie at that cosine to every query, which is (1, 0)."""

    def vector(self, text):
        text = text.strip()
        cosine = float(text[3:]) if text.startswith("at ") else SCORES.get(text, 1.0)
        return [3 * cosine, 3 * float(np.sqrt(1 - cosine**2))]


def plane_dataset(**relevant):
    """All documents of ``SCORES``; by default one query, answered by "pos"."""
    relevant = relevant or {"q": ["pos"]}
    return EmbeddingQAFinetuneDataset(
        queries={qid: f"query {qid}" for qid in relevant},
        corpus={docid: docid for docid in SCORES},
        relevant_docs=relevant,
    )


def mined(dataset=None, **options):
    """The hard negatives that these options give."""
    found = mine_hard_negatives(dataset or plane_dataset(), PlaneEmbedding(), **options)
    return found.hard_negatives


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["d90", "d79", "d70", "d50"]),
        ({"num_negatives": 2}, ["d90", "d79"]),
        ({"num_negatives": 2, "range_min": 1}, ["d79", "d70"]),
        ({"absolute_margin": 0.0}, ["d79", "d70", "d50", "d10"]),
        ({"absolute_margin": 0.05}, ["d70", "d50", "d10", "dm20"]),
        ({"relative_margin": 0.05}, ["d70", "d50", "d10", "dm20"]),  # at most 0.76
        ({"max_score": 0.6}, ["d50", "d10", "dm20"]),
        ({"min_score": 0.6}, ["d90", "d79", "d70"]),
        ({"max_score": 0.75, "min_score": 0.3}, ["d70", "d50"]),
        # The pool is cut before the limits, and what is skipped counts after them.
        ({"max_score": 0.75, "range_max": 4}, ["d70", "d50"]),
        ({"max_score": 0.75, "range_min": 1, "num_negatives": 2}, ["d50", "d10"]),
    ],
)
def test_limits(options, expected):
    """Each limit on scores that can be seen."""
    assert mined(**options) == {"q": expected}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_score": 0.5}, [1, 2]),
        ({"min_score": 0.5}, [0, 1]),
        ({"min_score": 0.5, "max_score": 0.5}, [1]),
        ({"absolute_margin": 0.25}, [1, 2]),
    ],
)
def test_limits_are_inclusive(limits, expected):
    """Scores 0.75, 0.5 and 0.25 under a positive of 0.75: what is on the limit stays."""
    values = (
        dict.fromkeys(("absolute_margin", "relative_margin", "max_score", "min_score"), None)
        | limits
    )
    rule = Rule(num_negatives=3, range_min=0, range_max=3, sampling_strategy="top", **values)
    scores = np.array([0.75, 0.5, 0.25], dtype=np.float32)
    assert rule.chosen(scores, 0.75, np.random.default_rng(0)).tolist() == expected


def test_the_query_itself_is_no_negative():
    """Neither by its text, nor behind a title under its own id, as in ArguAna."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "query one", "q2": "query two"},
        corpus={"x": " query  one", "q2": "Title query two", "a": "pos", "b": "d90", "c": "d50"},
        relevant_docs={"q1": ["a"], "q2": ["a"]},
    )
    assert mined(dataset, num_negatives=3) == {"q1": ["q2", "b", "c"], "q2": ["x", "b", "c"]}
    own = dataset.model_copy(update={"relevant_docs": {"q1": ["x"], "q2": ["a"]}})
    assert mined(own, num_negatives=1, absolute_margin=0.05) == {"q1": ["b"], "q2": ["c"]}


def test_margins_count_from_the_lowest_positive():
    """With a positive at 0.8 and one at 0.5, what is 0.1 below is below 0.4."""
    assert mined(plane_dataset(q=["pos", "d50"]), absolute_margin=0.1) == {"q": ["d10", "dm20"]}


def test_relative_margin_of_a_negative_score():
    """Five per cent below -0.2 is -0.21, not -0.19: what has -0.205 is too near."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "query"},
        corpus={"pos": "at -0.2", "near": "at -0.205", "far": "at -0.5"},
        relevant_docs={"q": ["pos"]},
    )
    assert mined(dataset, relative_margin=0.05) == {"q": ["far"]}


def test_random_sampling():
    """Any of the candidates, best first, the same for a seed; by default from a wider pool."""
    drawn = {
        tuple(mined(num_negatives=2, sampling_strategy="random", seed=seed)["q"])
        for seed in range(30)
    }
    order = [docid for docid in sorted(SCORES, key=SCORES.get, reverse=True) if docid != "pos"]
    assert all(order.index(one) < order.index(other) for one, other in drawn)
    assert {docid for pair in drawn for docid in pair} == set(order)
    again = {
        tuple(mined(num_negatives=2, sampling_strategy="random", seed=seed)["q"])
        for seed in range(30)
    }
    assert again == drawn
    narrow = mined(num_negatives=2, range_max=3, sampling_strategy="random", seed=1)["q"]
    assert set(narrow) <= {"d90", "d79", "d70"}


def test_no_relevant_document_and_no_twin_is_a_negative():
    """Neither a copy of a positive, nor what answers the same question under another id."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "query one", "q2": " query  one", "q3": "query"},
        corpus={"a": "pos", "b": " pos\n", "c": "d90", "d": "d79", "e": "d79 ", "f": "d70"},
        relevant_docs={"q1": ["a"], "q2": ["c"], "q3": ["f"]},
    )
    assert mined(dataset, num_negatives=3) == {
        "q1": ["d", "f"],
        "q2": ["d", "f"],
        "q3": ["c", "a", "d"],  # each text once, as the first of its ids
    }


@settings(max_examples=60, deadline=None)
@given(
    datasets(text_strategy=st.sampled_from(["a", "a b", " a  b", "b", "c a", "c"])),
    st.sampled_from(["top", "random"]),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_no_false_negatives(dataset, strategy, num_negatives, range_min):
    """For any dataset: no text that is relevant to the query's text, and no text twice."""
    found = mine_hard_negatives(
        dataset,
        HashEmbedding(dim=4),
        num_negatives=num_negatives,
        range_min=range_min,
        sampling_strategy=strategy,
    )
    relevant = {}
    for text, ids in dataset.query_docid_pairs:
        keys = relevant.setdefault(text_key(text), set())
        keys.update(text_key(dataset.corpus[docid]) for docid in ids)
    for qid, ids in (found.hard_negatives or {}).items():
        keys = [text_key(dataset.corpus[docid]) for docid in ids]
        assert not set(keys) & relevant[text_key(dataset.queries[qid])]
        assert len(keys) == len(set(keys)) <= num_negatives


def test_blocks_do_not_change_the_result(monkeypatch):
    """Queries in blocks of three, with one to five positives, give what one block gives."""
    dataset = tiny_dataset(n_documents=30)
    docids = list(dataset.corpus)
    for i, found in enumerate(dataset.relevant_docs.values()):
        found.extend(docid for docid in docids[: i % 5] if docid not in found)
    whole = mine_hard_negatives(dataset, HashEmbedding())
    monkeypatch.setattr(ranking, "_QUERIES_AT_A_TIME", 3)
    assert mine_hard_negatives(dataset, HashEmbedding()) == whole
    assert list(whole.hard_negatives) == list(dataset.queries)
    assert all(len(found) == 4 for found in whole.hard_negatives.values())


def test_the_rest_of_the_dataset_stays_and_old_negatives_go(tmp_path):
    """The result is a new dataset, in memory and in its file."""
    dataset = plane_dataset()
    dataset.hard_negatives = {"q": ["dm20"]}
    found = mine_hard_negatives(dataset, PlaneEmbedding(), num_negatives=1)
    assert found.hard_negatives == {"q": ["d90"]}
    assert dataset.hard_negatives == {"q": ["dm20"]}
    assert (found.queries, found.corpus, found.relevant_docs) == (
        dataset.queries,
        dataset.corpus,
        dataset.relevant_docs,
    )
    found.save_json(tmp_path / "mined.json")
    assert EmbeddingQAFinetuneDataset.from_json(tmp_path / "mined.json") == found


def test_texts_are_embedded_once_and_options_reach_the_encoder(tmp_path):
    """Each side once, in batches as asked; a second call reads the vectors from the cache."""
    model, dataset = HashEmbedding(), tiny_dataset()
    mine_hard_negatives(dataset, model, batch_size=5, cache_dir=tmp_path)
    assert sorted(model.texts_seen) == sorted(dataset.corpus.values())
    assert sorted(model.text_batches) == [2, 5, 5]
    again = HashEmbedding()
    mine_hard_negatives(dataset, again, cache_dir=tmp_path)
    assert (again.query_calls, again.texts_seen) == (0, [])


class TableScorer:
    """A cross-encoder that scores a document by a table."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, pairs):
        return np.array([self.scores[document] for _, document in pairs])


def test_cross_encoder_decides_order_and_limits():
    """Its scores replace the model's for candidates and positives alike."""
    table = {"pos": 5.0, "d90": 7.0, "d79": 1.0, "d70": 4.0, "d50": 4.5, "d10": 3.0, "dm20": 2.0}
    scorer = TableScorer(table)
    assert mined(cross_encoder=scorer, num_negatives=2) == {"q": ["d90", "d50"]}
    assert mined(cross_encoder=scorer, num_negatives=2, absolute_margin=0.6) == {
        "q": ["d70", "d10"]  # at most 4.4
    }
    # Only candidates of the model are scored.
    assert mined(cross_encoder=scorer, num_negatives=2, range_max=3) == {"q": ["d90", "d70"]}


def test_cross_encoder_scores_stay_with_their_query():
    """Two queries at once: the second one's candidates are not judged by its predecessor's."""

    class Scorer:
        def predict(self, pairs):
            table = {"pos": 5.0, "d90": 1.0, "d79": 3.0, "d70": 2.0}
            sign = {"query q1": 1, "query q2": -1}
            return np.array([sign[query] * table[document] for query, document in pairs])

    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "query q1", "q2": "query q2"},
        corpus={docid: docid for docid in ("pos", "d90", "d79", "d70")},
        relevant_docs={"q1": ["pos"], "q2": ["pos"]},
    )
    assert mined(dataset, cross_encoder=Scorer(), num_negatives=3) == {
        "q1": ["d79", "d70", "d90"],
        "q2": ["d90", "d70", "d79"],
    }
    margin = mined(dataset, cross_encoder=Scorer(), num_negatives=3, absolute_margin=2.5)
    assert margin == {"q1": ["d70", "d90"]}  # of q2 all are above its positive's -5


@pytest.mark.parametrize("value", [[0.1, 0.2], np.nan])
def test_unusable_cross_encoder(value):
    """Several numbers per pair, or none, is an error that says so."""
    scorer = TableScorer(dict.fromkeys(SCORES, value))
    model = PlaneEmbedding()
    with pytest.raises(EncodingError, match=r"one finite number per pair"):
        mine_hard_negatives(plane_dataset(), model, cross_encoder=scorer)
    assert model.query_calls == 0
    assert model.text_batches == []


def test_too_few_negatives_are_logged(caplog):
    """How many queries got too few, and how many none."""
    dataset = plane_dataset(q1=["pos"], q2=["dm20"])
    with caplog.at_level(logging.INFO):
        found = mined(dataset, absolute_margin=0.05)
    assert list(found) == ["q1"]
    assert "Mined 4 hard negatives for 2 queries" in caplog.text
    assert "1 of 2 queries got fewer than 4 hard negatives, 1 of them none" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, r"'num_negatives' must be an integer of at least 1 \(got 0\)"),
        ({"num_negatives": 2.5}, r"'num_negatives' must be .* \(got 2.5\)"),
        ({"range_max": 9.5}, r"'range_max' must be .* \(got 9.5\)"),
        ({"relative_margin": "x"}, r"'relative_margin' must be a number or None \(got 'x'\)"),
        ({"max_score": float("nan")}, r"'max_score' must be a number"),
        ({"seed": -1}, r"'seed' must be an integer of at least 0 \(got -1\)"),
        ({"range_min": -1}, r"'range_min' must be an integer of at least 0 \(got -1\)"),
        ({"range_min": 3, "range_max": 6}, r"'num_negatives' = 7 \(got 6\)"),
        ({"sampling_strategy": "best"}, r"'sampling_strategy' must be in .* \(got 'best'\)"),
        ({"min_score": 0.5, "max_score": 0.4}, r"'min_score' must be at most .* \(got 0\.5\)"),
        ({"cross_encoder": "name"}, r"'cross_encoder' must have a method .* \(got 'name'\)"),
    ],
)
def test_arguments_that_can_not_work(options, message):
    """They are rejected before anything is embedded."""
    model = PlaneEmbedding()
    with pytest.raises(ConfigurationError, match=message):
        mine_hard_negatives(plane_dataset(), model, **options)
    assert model.query_calls == 0


def test_progress_is_shown_only_when_asked(capsys):
    """A bar on the error stream, or nothing."""
    mined()
    assert capsys.readouterr().err == ""
    mined(show_progress=True)
    assert "Mining" in capsys.readouterr().err


def test_faiss_finds_the_same():
    """The exact index of faiss, where it is installed, gives the same negatives."""
    pytest.importorskip("faiss")
    dataset = tiny_dataset(n_documents=40)
    found = mine_hard_negatives(dataset, HashEmbedding(), relative_margin=0.05, use_faiss=True)
    assert found == mine_hard_negatives(dataset, HashEmbedding(), relative_margin=0.05)
    # Vectors of length 3, under a limit on the cosine.
    assert mined(use_faiss=True, max_score=0.6) == {"q": ["d50", "d10", "dm20"]}


def test_positives_are_scored_by_angle_alone():
    """Vectors of any length, also of none."""
    query = np.array([0.1, 0.0], dtype=np.float32)
    documents = np.array([[0.2, 0.0], [0.0, 0.0], [0.1, 0.1], [-3.0, 0.0]], dtype=np.float32)
    cosines = ranking._cosines(query, documents)
    np.testing.assert_allclose(cosines, [1, 0, 0.5**0.5, -1], atol=1e-6)
    assert cosines.dtype == np.float32


def test_faiss_compares_by_angle_alone():
    """Vectors of any length, also of none, as the search without it does."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    queries, documents = (rng.standard_normal((n, 8)).astype(np.float32) for n in (3, 20))
    documents *= rng.uniform(0.01, 3, size=(20, 1)).astype(np.float32)
    documents[4] = 0
    scores, keys = faiss_search()(0.1 * queries, documents, 20)
    expected, order = top_k(queries, documents, 20)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert keys.tolist() == order.tolist()


def test_missing_faiss_is_named_before_the_encoding(monkeypatch):
    """The error says how to install it."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    model = PlaneEmbedding()
    with pytest.raises(MissingExtraError, match=r"llama-index-finetuning-embeddings\[faiss\]"):
        mine_hard_negatives(plane_dataset(), model, use_faiss=True)
    assert model.query_calls == 0


class WrappedModel(HashEmbedding):
    """A sentence-transformers model as an embedding model of LlamaIndex."""

    _encode: Any = PrivateAttr()

    def __init__(self, encode):
        super().__init__()
        self._encode = encode

    def vector(self, text):
        return self._encode(text).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"num_negatives": 3},
        {"num_negatives": 2, "range_min": 2},
        {"num_negatives": 3, "relative_margin": 0.05, "range_max": 25},
        {"num_negatives": 3, "absolute_margin": 0.1, "range_min": 1, "range_max": 25},
        {"num_negatives": 3, "max_score": 0.5, "min_score": 0.1, "range_max": 25},
    ],
)
def test_agrees_with_sentence_transformers(tiny_model_dir, options, capsys):
    """The same negatives as upstream's function, which this one follows, on the same model."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives as upstream

    data = tiny_dataset(n_documents=30, queries_per_document=1)
    model = SentenceTransformer(str(tiny_model_dir), device="cpu")
    texts = data.corpus
    rows = upstream(
        Dataset.from_dict(
            {
                "anchor": list(data.queries.values()),
                "positive": [texts[ids[0]] for ids in data.relevant_docs.values()],
            }
        ),
        model,
        corpus=list(texts.values()),
        output_format="triplet",
        verbose=False,
        **options,
    )
    expected = {}
    for row in rows:
        expected.setdefault(row["anchor"], []).append(row["negative"])
    found = mine_hard_negatives(data, WrappedModel(model.encode), **options)
    assert {
        data.queries[qid]: [texts[docid] for docid in ids]
        for qid, ids in found.hard_negatives.items()
    } == expected
