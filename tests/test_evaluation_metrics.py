"""Metrics against visible arithmetic, trec_eval and properties that must hold."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.evaluation import evaluate_rankings, metrics

GAINS = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 2.0, 0.0]])
IDEAL = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [3.0, 2.0, 1.0]])
N_RELEVANT = np.array([3, 1, 3])


def test_hit_rate_asks_for_one_relevant_document_in_the_cut_off():
    """The first query's first hit is at rank 2, the third's at rank 1."""
    assert metrics.hit_rate(GAINS, 1).tolist() == [0, 0, 1]
    assert metrics.hit_rate(GAINS, 2).tolist() == [1, 0, 1]


def test_reciprocal_rank_is_cut_off():
    """A first hit at rank 2 gives 1/2, and nothing at cut-off 1."""
    assert metrics.reciprocal_rank(GAINS, 4).tolist() == [1 / 2, 0, 1]
    assert metrics.reciprocal_rank(GAINS, 1).tolist() == [0, 0, 1]


def test_precision_divides_by_k_even_beyond_the_ranking():
    """Two hits in four ranks are 2/4 at 4 and 2/10 at 10."""
    assert metrics.precision(GAINS, 4).tolist() == [2 / 4, 0, 2 / 4]
    assert metrics.precision(GAINS, 10).tolist() == [2 / 10, 0, 2 / 10]


def test_recall_divides_by_all_relevant_documents():
    """One of three relevant documents is in the first two ranks."""
    assert metrics.recall(GAINS, N_RELEVANT, 2).tolist() == [1 / 3, 0, 1 / 3]


def test_average_precision_counts_a_document_beyond_the_cut_off_as_zero():
    """Hits at ranks 2 and 4 of three relevant: (1/2 + 2/4) / 3; at cut-off 2 only (1/2) / 3."""
    assert metrics.average_precision(GAINS, N_RELEVANT, 4)[0] == (1 / 2 + 2 / 4) / 3
    assert metrics.average_precision(GAINS, N_RELEVANT, 2)[0] == (1 / 2) / 3


def test_ndcg_has_linear_gain():
    """Gains 3 and 2 at ranks 1 and 3, where 3, 2, 1 would be ideal."""
    gained = 3 / math.log2(2) + 2 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert metrics.ndcg(GAINS, IDEAL, 3)[2] == pytest.approx(gained / ideal, abs=1e-15)


def test_label_is_how_people_write_it():
    """Names of metrics get their usual capitals."""
    assert [metrics.label(name) for name in ("ndcg@10", "hit_rate@1", "map@100")] == [
        "nDCG@10",
        "Hit rate@1",
        "MAP@100",
    ]


@given(
    hnp.arrays(np.float64, (3, 6), elements=st.sampled_from([0.0, 0.5, 1.0, 3.0])),
    st.integers(1, 8),
)
def test_metrics_stay_between_0_and_1_and_grow_where_they_must(gains, k):
    """Every metric is in [0, 1]; recall and hit rate never fall with k; perfect order gives 1."""
    gains[:, 0] = np.maximum(gains[:, 0], 0.5)
    ideal = -np.sort(-gains, axis=1)
    n_relevant = (gains > 0).sum(axis=1)
    names = metrics.metric_names([k, k + 1])
    found = metrics.all_metrics(gains, ideal, n_relevant, names)
    assert list(found) == names
    assert all((values >= 0).all() and (values <= 1 + 1e-12).all() for values in found.values())
    assert (found[f"recall@{k}"] <= found[f"recall@{k + 1}"]).all()
    assert (found[f"hit_rate@{k}"] <= found[f"hit_rate@{k + 1}"]).all()
    assert metrics.ndcg(ideal, ideal, k).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_those_of_trec_eval(seed):
    """Random rankings with several graded positives agree with pytrec_eval to 1e-9."""
    rng = np.random.default_rng(seed)
    n_queries, n_documents, depth = 40, 60, 30
    relevance = {
        f"q{i}": {
            f"d{j}": int(rng.integers(1, 4))
            for j in rng.choice(n_documents, rng.integers(1, 15), replace=False)
        }
        for i in range(n_queries)
    }
    dataset = EmbeddingQAFinetuneDataset(
        queries=dict.fromkeys(relevance, "query"),
        corpus={f"d{j}": "text" for j in range(n_documents)},
        relevant_docs={qid: list(found) for qid, found in relevance.items()},
    )
    indices = np.array([rng.permutation(n_documents)[:depth] for _ in range(n_queries)])
    ours = evaluate_rankings(indices, dataset, k_values=(1, 5, 10), relevance=relevance).per_query

    names = {"ndcg": "ndcg_cut", "map": "map_cut", "precision": "P", "recall": "recall"}
    names["hit_rate"] = "success"
    evaluator = pytrec_eval.RelevanceEvaluator(
        relevance, {f"{theirs}.1,5,10" for theirs in names.values()}
    )
    theirs = evaluator.evaluate(_run(indices, depth))
    for k in (1, 5, 10):
        cut = pytrec_eval.RelevanceEvaluator(relevance, {"recip_rank"}).evaluate(_run(indices, k))
        for row, qid in enumerate(dataset.queries):
            for name, measure in names.items():
                expected = theirs[qid][f"{measure}_{k}"]
                assert ours[f"{name}@{k}"][row] == pytest.approx(expected, abs=1e-9)
            assert ours[f"mrr@{k}"][row] == pytest.approx(cut[qid]["recip_rank"], abs=1e-9)


def _run(indices, depth):
    """Return rankings in pytrec_eval's form, with scores that fall by rank."""
    return {
        f"q{row}": {f"d{j}": float(depth - rank) for rank, j in enumerate(found[:depth])}
        for row, found in enumerate(indices)
    }
