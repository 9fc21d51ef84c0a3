"""Which documents are relevant to which query, laid out for looking up whole rankings at once."""

import math
from collections import defaultdict
from collections.abc import Mapping
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.duplicates import text_keys
from llama_index.finetuning.embeddings.errors import DatasetError, shown
from llama_index.finetuning.embeddings.splitting import connected

Relevance = Mapping[str, Mapping[str, float]]


class Judgements:
    """Relevance by row of ``dataset.queries`` and row of ``dataset.corpus``.

    Args:
        dataset: The queries, the corpus and, by default, the judgements: each entry of
            ``relevant_docs`` has relevance 1, a repeated one counts once.
        relevance: Graded judgements that take the place of ``relevant_docs``: query id to
            document id to a relevance of at least 0, where 0 means not relevant. Every query
            needs a document above 0; ids that are no query are ignored, and so are documents of
            0 that are not in the corpus.

    Raises:
        DatasetError: A query has no relevant document, a document is not in the corpus, or a
            relevance is negative or not finite.
    """

    def __init__(
        self, dataset: EmbeddingQAFinetuneDataset, relevance: Relevance | None = None
    ) -> None:
        check_relevance(dataset, relevance)
        if relevance is None:
            relevance = {
                qid: dict.fromkeys(dataset.relevant_docs[qid], 1.0) for qid in dataset.queries
            }
        row_of = {docid: row for row, docid in enumerate(dataset.corpus)}
        self._n_documents = len(row_of)
        triples = [
            (query_row * self._n_documents + row_of[docid], query_row, gain)
            for query_row, qid in enumerate(dataset.queries)
            for docid, gain in relevance[qid].items()
            if gain > 0
        ]
        keys, rows, gains = zip(*sorted(triples), strict=True)
        self._keys = np.array(keys, dtype=np.int64)
        self._rows = np.array(rows, dtype=np.int64)
        self._gains = np.array(gains, dtype=np.float64)
        self._dataset = dataset
        self.n_relevant: NDArray[np.int64] = np.bincount(self._rows, minlength=len(dataset.queries))

    def gains(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the relevance of ranked documents; shapes (n_queries, depth).

        Args:
            indices: Rows of the corpus, best first; -1 stands for no document.
        """
        keys = np.arange(len(indices))[:, None] * self._n_documents + indices
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = (self._keys[places] == keys) & (indices >= 0)
        return np.where(known, self._gains[places], 0.0)

    def ideal_gains(self, depth: int) -> NDArray[np.float64]:
        """Return each query's relevances in descending order; shape (n_queries, depth)."""
        order = np.lexsort((-self._gains, self._rows))
        firsts = np.cumsum(self.n_relevant) - self.n_relevant
        ranks = np.arange(len(order)) - firsts[self._rows]
        ideal = np.zeros((len(self.n_relevant), depth))
        kept = ranks < depth
        ideal[self._rows[kept], ranks[kept]] = self._gains[order][kept]
        return ideal

    def relevant(self, query_row: int) -> NDArray[np.int64]:
        """Return the corpus rows of a query's relevant documents, in corpus order."""
        first, end = np.searchsorted(self._rows, [query_row, query_row + 1])
        return self._keys[first:end] % self._n_documents

    def clusters(self) -> NDArray[np.int64]:
        """Number the groups of queries that are of equal text or share relevant documents.

        Documents of equal text are one document; sharing may go through other queries.

        Returns:
            One label per query, shape (n_queries,), counting up from 0.
        """
        queries, corpus = self._dataset.queries, self._dataset.corpus
        query_ids, ids = list(queries), list(corpus)
        relevant = [ids[row] for row in (self._keys % self._n_documents).tolist()]
        keys = text_keys({docid: corpus[docid] for docid in relevant})
        links: defaultdict[str, list[int]] = defaultdict(list)
        for row, docid in zip(self._rows.tolist(), relevant, strict=True):
            links[query_ids[row]].append(keys[docid])
        group_of = {
            qid: group for group, members in enumerate(connected(queries, links)) for qid in members
        }
        # Numbered in the order of the queries.
        labels: dict[int, int] = {}
        numbers = [labels.setdefault(group_of[qid], len(labels)) for qid in query_ids]
        return np.array(numbers, dtype=np.int64)


def check_relevance(dataset: EmbeddingQAFinetuneDataset, relevance: Relevance | None) -> None:
    """Raise DatasetError unless graded judgements, if there are any, fit the dataset."""
    if relevance is None:
        return
    if not isinstance(relevance, Mapping) or not all(
        isinstance(relevance.get(qid, {}), Mapping) for qid in dataset.queries
    ):
        raise DatasetError(
            "'relevance' must map each query id to a mapping of document ids to numbers, such as "
            "{'q1': {'d1': 2}}."
        )
    without = [qid for qid in dataset.queries if not any(relevance.get(qid, {}).values())]
    if without:
        raise DatasetError(
            f"{len(without):,} queries have no document above 0 in 'relevance': {shown(without)}. "
            "Add one for each, or evaluate without them."
        )
    pairs = [
        (qid, docid, gain) for qid in dataset.queries for docid, gain in relevance[qid].items()
    ]
    bad = [f"{docid} (of query {qid}): {gain}" for qid, docid, gain in pairs if not _usable(gain)]
    if bad:
        raise DatasetError(
            f"{len(bad):,} relevances are no number, negative or not finite: {shown(bad)}. "
            "Relevance is a number of at least 0."
        )
    strangers = [
        f"{docid} (of query {qid})"
        for qid, docid, gain in pairs
        if gain > 0 and docid not in dataset.corpus
    ]
    if strangers:
        raise DatasetError(
            f"{len(strangers):,} document ids above 0 in 'relevance' are not in the corpus: "
            f"{shown(strangers)}. Add the documents to the corpus or remove the ids."
        )


def _usable(gain: object) -> bool:
    return isinstance(gain, Real) and 0 <= float(gain) < math.inf
