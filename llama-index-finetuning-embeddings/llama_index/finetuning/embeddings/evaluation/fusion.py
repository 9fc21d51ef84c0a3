"""Reciprocal-rank fusion of several rankings into one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def reciprocal_rank_fusion(
    rankings: Sequence[NDArray[np.int64]], *, depth: int, k: int = 60
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank documents by the sum of 1 / (k + rank) over the rankings that hold them.

    Source: Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods", SIGIR 2009, whose k is 60. Only ranks count, so rankings
    whose scores are not comparable can be fused.

    Args:
        rankings: Rows of the corpus, best first, each of shape (n_queries, anything); -1 stands
            for no document.
        depth: Documents per query in the result.
        k: How little the first ranks stand out.

    Returns:
        Rows of the corpus, -1 where there is no further document, and fused scores; both of
        shape (n_queries, depth). Equal scores keep the order of the corpus.
    """
    retrieved = np.concatenate(rankings, axis=1)
    shares = np.concatenate([1 / (k + 1 + np.arange(one.shape[1])) for one in rankings])
    indices = np.full((len(retrieved), depth), -1, dtype=np.int64)
    scores = np.zeros(indices.shape, dtype=np.float32)
    for row, found in enumerate(retrieved):
        kept = found >= 0
        documents, places = np.unique(found[kept], return_inverse=True)
        # In single precision, in which the order of summation makes no difference to ties.
        sums = np.bincount(places, weights=shares[kept]).astype(np.float32)
        best = np.argsort(-sums, kind="stable")[:depth]
        indices[row, : len(best)] = documents[best]
        scores[row, : len(best)] = sums[best]
    return indices, scores
