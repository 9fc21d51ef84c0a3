"""nDCG@10 from vectors on the device where they are, fast enough to ask for after each epoch."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index.finetuning.embeddings.adapters import Transform

CUTOFF = 10
_SCORES_PER_BLOCK = 1 << 24
_ROWS_PER_BLOCK = 1 << 14


def adapted(adapter: nn.Module, vectors: Tensor) -> Tensor:
    """Return the adapter's output for many vectors, scaled to length one, without gradients."""
    blocks = torch.split(vectors, _ROWS_PER_BLOCK)
    was_training = adapter.training
    # As it will be served: without dropout, and with the statistics that it has learned.
    adapter.eval()
    try:
        with torch.inference_mode():
            return torch.cat([F.normalize(adapter(rows), dim=-1) for rows in blocks])
    finally:
        adapter.train(was_training)


class Scorer:
    """nDCG@10 of some queries among some documents, before and after an adapter.

    A document of the same score as a relevant one counts as ranked above it, so that an adapter
    which maps everything to one point scores lowest.

    Args:
        queries: Vectors as the base gives them, shape ``(n_queries, dim)``.
        documents: Likewise where the adapter is for texts too, otherwise scaled to length one.
        relevant: The rows of the relevant documents of each query.
        transform: Whose vectors the adapter changes.
    """

    def __init__(
        self,
        queries: Tensor,
        documents: Tensor,
        relevant: Sequence[Sequence[int]],
        transform: Transform,
    ) -> None:
        self._queries = queries
        self._documents = documents
        self._transform = transform
        device = queries.device
        query_of = [i for i, rows in enumerate(relevant) for _ in rows]
        self._query_of = torch.tensor(query_of, dtype=torch.long, device=device)
        self._row_of = torch.tensor(
            [row for rows in relevant for row in rows], dtype=torch.long, device=device
        )
        gains = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
        best = np.cumsum(gains)
        self._best = np.array([best[min(len(rows), CUTOFF) - 1] for rows in relevant])

    def __call__(self, adapter: nn.Module | None) -> NDArray[np.float64]:
        """Return each query's nDCG@10, shape ``(n_queries,)``; without an adapter, the base's."""
        if adapter is None:
            queries = F.normalize(self._queries, dim=-1)
            documents = F.normalize(self._documents, dim=-1)
        else:
            queries = adapted(adapter, self._queries)
            both = self._transform == "both"
            documents = adapted(adapter, self._documents) if both else self._documents
        ranks = self._ranks(queries, documents)
        found = np.where(ranks <= CUTOFF, 1.0 / np.log2(ranks + 1), 0.0)
        query_of = self._query_of.cpu().numpy()
        sums = np.bincount(query_of, found, minlength=len(self._best))
        return np.asarray(sums / self._best)

    def _ranks(self, queries: Tensor, documents: Tensor) -> NDArray[np.int64]:
        """Return the rank of each relevant document, from 1."""
        ranks = torch.empty(len(self._query_of), dtype=torch.long, device=queries.device)
        size = max(1, _SCORES_PER_BLOCK // max(1, len(documents)))
        for block in torch.split(torch.arange(len(ranks), device=queries.device), size):
            first = int(self._query_of[block[0]])
            last = int(self._query_of[block[-1]])
            scores = queries[first : last + 1] @ documents.T
            of_block = self._query_of[block] - first
            own = scores[of_block, self._row_of[block]]
            ranks[block] = (scores[of_block] >= own[:, None]).sum(dim=1)
        found: NDArray[np.int64] = ranks.cpu().numpy()
        return found
