"""Retrieval metrics in pure NumPy, one value per query.

All functions take ``gains``, shape (n_queries, depth): the relevance of the document that was
ranked first, second, ... for each query, 0 where it is not relevant. A document counts as
relevant when its relevance is above 0. A ranking shorter than k is one whose missing ranks hold
nothing relevant. The definitions are those of trec_eval (https://github.com/usnistgov/trec_eval)
and ranx (Bassani, ECIR 2022), so the values can be compared with published ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.errors import ConfigurationError

Floats = NDArray[np.float64]

_LABELS = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "recall": "Recall",
    "hit_rate": "Hit rate",
    "map": "MAP",
    "precision": "Precision",
}


def hit_rate(gains: Floats, k: int) -> Floats:
    """Return 1 where a relevant document is among the first k, else 0; shape (n_queries,)."""
    return np.asarray((gains[:, :k] > 0).any(axis=1), dtype=np.float64)


def reciprocal_rank(gains: Floats, k: int) -> Floats:
    """Return 1 / rank of the first relevant document, 0 beyond rank k; its mean is MRR@k."""
    relevant = gains[:, :k] > 0
    ranks = relevant.argmax(axis=1) + 1
    return np.where(relevant.any(axis=1), 1.0 / ranks, 0.0)


def precision(gains: Floats, k: int) -> Floats:
    """Return the number of relevant documents among the first k, divided by k.

    The divisor is k also where fewer than k documents exist, as in trec_eval.
    """
    found: NDArray[np.int64] = (gains[:, :k] > 0).sum(axis=1)
    return found / float(k)


def recall(gains: Floats, n_relevant: NDArray[np.int64], k: int) -> Floats:
    """Return the share of a query's relevant documents that is among the first k.

    Args:
        gains: Relevance by rank, shape (n_queries, depth).
        n_relevant: All relevant documents of each query, found or not, shape (n_queries,).
        k: The cut-off.
    """
    found: NDArray[np.int64] = (gains[:, :k] > 0).sum(axis=1)
    return found / n_relevant


def average_precision(gains: Floats, n_relevant: NDArray[np.int64], k: int) -> Floats:
    """Return the average precision at a cut-off; its mean over queries is MAP@k.

    The precision at the rank of each relevant document among the first k is summed, and the sum
    is divided by the number of all relevant documents of the query: one beyond the cut-off
    counts as precision 0. This is trec_eval's ``map_cut`` and ranx's ``map@k``;
    sentence-transformers divides by min(k, relevant documents) instead, which differs only for
    queries with more than k relevant documents.

    Args:
        gains: Relevance by rank, shape (n_queries, depth).
        n_relevant: All relevant documents of each query, found or not, shape (n_queries,).
        k: The cut-off.
    """
    relevant = gains[:, :k] > 0
    precisions = relevant.cumsum(axis=1) / np.arange(1, relevant.shape[1] + 1)
    total: Floats = np.where(relevant, precisions, 0.0).sum(axis=1)
    return total / n_relevant


def ndcg(gains: Floats, ideal_gains: Floats, k: int) -> Floats:
    """Return the normalised discounted cumulative gain at k (Järvelin and Kekäläinen, 2002).

    The gain is the relevance itself (linear, the default of trec_eval and ranx, not 2^rel - 1),
    divided by log2(rank + 1); the sum over the first k is divided by that of the best possible
    ranking of the query's relevant documents.

    Args:
        gains: Relevance by rank, shape (n_queries, depth).
        ideal_gains: All relevances of each query in descending order, padded with 0, shape
            (n_queries, anything); only the first k columns count.
        k: The cut-off.
    """
    return _dcg(gains, k) / _dcg(ideal_gains, k)


def _dcg(gains: Floats, k: int) -> Floats:
    top = gains[:, :k]
    gained: Floats = (top / np.log2(np.arange(2, top.shape[1] + 2))).sum(axis=1)
    return gained


def metric_names(k_values: Sequence[int]) -> list[str]:
    """Return the names of all metrics at some cut-offs, and ``"map@100"``."""
    names = [f"{name}@{k}" for k in k_values for name in _LABELS]
    return list(dict.fromkeys([*names, "map@100"]))


def check_metric(metric: str, k_values: Sequence[int]) -> None:
    """Make sure that a metric is computed at these cut-offs.

    Raises:
        ConfigurationError: It is not.
    """
    names = metric_names(k_values)
    if metric not in names:
        raise ConfigurationError(
            f"'metric' must be in {names} (got {metric!r}). Other cut-offs come with 'k_values'."
        )


def all_metrics(
    gains: Floats, ideal_gains: Floats, n_relevant: NDArray[np.int64], names: Sequence[str]
) -> dict[str, Floats]:
    """Return each named metric's values per query; the other arguments are those above."""
    functions: dict[str, Callable[[int], Floats]] = {
        "ndcg": lambda k: ndcg(gains, ideal_gains, k),
        "mrr": lambda k: reciprocal_rank(gains, k),
        "recall": lambda k: recall(gains, n_relevant, k),
        "hit_rate": lambda k: hit_rate(gains, k),
        "map": lambda k: average_precision(gains, n_relevant, k),
        "precision": lambda k: precision(gains, k),
    }
    parted = {name: name.split("@") for name in names}
    return {name: functions[kind](int(k)) for name, (kind, k) in parted.items()}


def label(metric: str) -> str:
    """Return a metric's name as people write it: ``"nDCG@10"`` for ``"ndcg@10"``."""
    name, _, cut_off = metric.partition("@")
    return f"{_LABELS[name]}@{cut_off}"
