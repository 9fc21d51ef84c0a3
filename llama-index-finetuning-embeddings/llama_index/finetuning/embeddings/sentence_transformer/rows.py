"""Training rows from a dataset, in the columns that a loss wants."""

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.sentence_transformer.losses import LossFormat

_ATTEMPTS = 64


@dataclass(frozen=True)
class RowKeys:
    """What decides whether two rows may share a batch; keys are those of a `RelevanceIndex`.

    Attributes:
        documents: Keys of the documents that the row brings into its batch.
        barred: Keys of all documents that must not be negatives of the row's query.
    """

    documents: frozenset[int]
    barred: frozenset[int]

    def clashes(self, documents: set[int], barred: set[int]) -> bool:
        """Tell whether the row and a batch with these keys would make a false negative."""
        return not (self.documents.isdisjoint(barred) and self.barred.isdisjoint(documents))


@dataclass(frozen=True)
class Columns:
    """Columns for the Trainer, one entry a row.

    Attributes:
        columns: Column name to values; the order of the names is the one that losses expect.
        keys: One `RowKeys` a row for ranking losses, else None: any rows may share a batch.
    """

    columns: dict[str, list[Any]]
    keys: list[RowKeys] | None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class DocumentRow:
    """A document with the queries that it answers, for by-document batches."""

    document_id: str
    query_ids: tuple[str, ...]


def training_pairs(
    dataset: EmbeddingQAFinetuneDataset, *, use_all_docs: bool
) -> list[tuple[str, str]]:
    """Return (query id, relevant document id): each query's first document, or all of them."""
    return [
        (qid, docid)
        for qid in dataset.queries
        for docid in dict.fromkeys(dataset.relevant_docs[qid][: None if use_all_docs else 1])
    ]


def build_rows(
    dataset: EmbeddingQAFinetuneDataset, loss: LossFormat, *, use_all_docs: bool, seed: int
) -> Columns:
    """Lay a dataset out in the rows that a loss wants.

    Negatives come from ``hard_negatives``; where a loss needs one and the query has none, a
    document that is not relevant to the query is drawn with ``seed``.

    Raises:
        ConfigurationError: The loss needs negatives and a query has none to offer.
    """
    pairs = training_pairs(dataset, use_all_docs=use_all_docs)
    negatives = _Negatives(dataset, random.Random(seed))  # noqa: S311 (reproducible, not secret)
    if loss.kind == "ranking":
        return _ranking_rows(dataset, pairs, negatives, loss.max_negatives)
    queries, corpus = dataset.queries, dataset.corpus
    chosen = [negatives.some(qid) for qid, _ in pairs]
    if loss.kind == "triplet":
        triplets = [
            (queries[qid], corpus[docid], corpus[negative])
            for (qid, docid), found in zip(pairs, chosen, strict=True)
            for negative in found
        ]
        names = ("anchor", "positive", "negative")
        return Columns(dict(zip(names, map(list, zip(*triplets, strict=True)), strict=True)), None)
    labelled = [
        (queries[qid], corpus[docid], label)
        for (qid, positive), found in zip(pairs, chosen, strict=True)
        for docid, label in [(positive, 1.0), *((negative, 0.0) for negative in found)]
    ]
    names = ("sentence1", "sentence2", "label")
    return Columns(dict(zip(names, map(list, zip(*labelled, strict=True)), strict=True)), None)


def document_rows(
    dataset: EmbeddingQAFinetuneDataset, *, use_all_docs: bool, max_queries: int
) -> list[DocumentRow]:
    """Group the training pairs by document; more than ``max_queries`` make a row of their own."""
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for qid, docid in training_pairs(dataset, use_all_docs=use_all_docs):
        grouped[docid].append(qid)
    return [
        DocumentRow(docid, tuple(qids[start : start + max_queries]))
        for docid, qids in grouped.items()
        for start in range(0, len(qids), max_queries)
    ]


def _ranking_rows(
    dataset: EmbeddingQAFinetuneDataset,
    pairs: list[tuple[str, str]],
    negatives: "_Negatives",
    max_negatives: int | None,
) -> Columns:
    given = dataset.hard_negatives or {}
    width = max((len(given.get(qid, ())) for qid, _ in pairs), default=0)
    if max_negatives is not None:
        width = min(width, max_negatives)
    chosen = [negatives.exactly(qid, width) for qid, _ in pairs]
    columns = {
        "anchor": [dataset.queries[qid] for qid, _ in pairs],
        "positive": [dataset.corpus[docid] for _, docid in pairs],
    }
    for i in range(width):
        name = "negative" if width == 1 else f"negative_{i + 1}"
        columns[name] = [dataset.corpus[found[i]] for found in chosen]
    index = negatives.index
    keys = [
        RowKeys(
            documents=frozenset(index.key_of[one] for one in (docid, *found)),
            barred=index.barred_keys(qid),
        )
        for (qid, docid), found in zip(pairs, chosen, strict=True)
    ]
    return Columns(columns, keys)


class _Negatives:
    """A query's negatives: those that the dataset names, else random ones; never a relevant one."""

    def __init__(self, dataset: EmbeddingQAFinetuneDataset, rng: random.Random) -> None:
        self.index = RelevanceIndex(dataset)
        self._given = dataset.hard_negatives or {}
        self._document_ids = list(dataset.corpus)
        self._rng = rng

    def some(self, query_id: str) -> list[str]:
        """Return the dataset's hard negatives of a query, or one random negative."""
        return self._named(query_id) or [self._random(query_id, taken=set())]

    def exactly(self, query_id: str, n: int) -> list[str]:
        """Return ``n`` distinct negatives: hard ones first, random ones to fill up."""
        found = self._named(query_id)[:n]
        while len(found) < n:
            found.append(self._random(query_id, taken=set(found)))
        return found

    def _named(self, query_id: str) -> list[str]:
        barred = self.index.barred_keys(query_id)
        return [
            docid
            for docid in dict.fromkeys(self._given.get(query_id, ()))
            if self.index.key_of[docid] not in barred
        ]

    def _random(self, query_id: str, taken: set[str]) -> str:
        barred = self.index.barred_keys(query_id)

        def fits(docid: str) -> bool:
            return docid not in taken and self.index.key_of[docid] not in barred

        for _ in range(_ATTEMPTS):
            docid = self._rng.choice(self._document_ids)
            if fits(docid):
                return docid
        # A corpus that is nearly all relevant: look through it instead of guessing.
        candidates = [docid for docid in self._document_ids if fits(docid)]
        if candidates:
            return self._rng.choice(candidates)
        raise ConfigurationError(
            f"The loss needs another negative for query {query_id!r}, but the corpus has no "
            "further document that is not relevant to it. Add documents, or use "
            "MultipleNegativesRankingLoss."
        )
