"""A training set as vectors and row numbers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_index.finetuning.embeddings.adapter.options import Negatives, TrainingOptions
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.duplicates import DisjointSets
from llama_index.finetuning.embeddings.relevance import RelevanceIndex

_LEAST_BYSTANDERS = 500


@dataclass(frozen=True)
class Rows:
    """A dataset by row numbers; documents of one text, white space aside, are one row.

    Attributes:
        document_ids: The id of a document for each row.
        row_of: The row of each document id.
        positives: For each query, the rows of the documents that its dataset names.
        relevant: For each query, the rows of all documents that are relevant to it or to a
            query of the same text.
        hard: For each query, the rows of its hard negatives.
        barred: For each query, the rows that are never its negatives: its relevant ones, and
            itself where it stands in the corpus.
    """

    document_ids: list[str]
    row_of: dict[str, int]
    positives: list[list[int]]
    relevant: list[list[int]]
    hard: list[list[int]]
    barred: list[list[int]]

    @classmethod
    def of(cls, dataset: EmbeddingQAFinetuneDataset) -> "Rows":
        """Number the rows of a dataset."""
        index = RelevanceIndex(dataset)
        key_of = index.key_of
        barred = [sorted(index.barred_keys(qid)) for qid in dataset.queries]
        hard_negatives = dataset.hard_negatives or {}
        return cls(
            document_ids=index.first_ids(),
            row_of=key_of,
            positives=[
                list(dict.fromkeys(key_of[docid] for docid in dataset.relevant_docs[qid]))
                for qid in dataset.queries
            ],
            relevant=[sorted(index.relevant_keys(qid)) for qid in dataset.queries],
            hard=[
                sorted({key_of[docid] for docid in hard_negatives.get(qid, ())} - set(never))
                for qid, never in zip(dataset.queries, barred, strict=True)
            ],
            barred=barred,
        )

    def keep(self, documents: Sequence[int]) -> "Rows":
        """Return the same queries over these documents alone.

        Every positive, relevant and hard row must be among them.
        """
        place = {row: i for i, row in enumerate(documents)}

        def moved(lists: list[list[int]]) -> list[list[int]]:
            return [[place[row] for row in rows] for rows in lists]

        return Rows(
            document_ids=[self.document_ids[row] for row in documents],
            row_of={id_: place[row] for id_, row in self.row_of.items() if row in place},
            positives=moved(self.positives),
            relevant=moved(self.relevant),
            hard=moved(self.hard),
            barred=moved([[row for row in rows if row in place] for rows in self.barred]),
        )

    def groups(self) -> NDArray[np.int64]:
        """Return a group number for each query, shape ``(n_queries,)``.

        Queries that share a relevant document, directly or through others, share a group: no
        document is relevant to queries of two groups.
        """
        sets = DisjointSets(len(self.document_ids))
        for rows in self.relevant:
            for row in rows[1:]:
                sets.join(rows[0], row)
        roots = [sets.find(rows[0]) for rows in self.relevant]
        return np.unique(roots, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Vectors:
    """A dataset as vectors.

    Attributes:
        queries: One row per query in the order of the dataset, shape ``(n_queries, dim)``.
        documents: One row per row number of ``rows``, shape ``(n_documents, dim)``.
        rows: Which documents belong to which query.
        dataset: The dataset.
    """

    queries: Tensor
    documents: Tensor
    rows: Rows
    dataset: EmbeddingQAFinetuneDataset

    def texts(self) -> list[str]:
        """Return the text of each row of ``documents``."""
        return [self.dataset.corpus[docid] for docid in self.rows.document_ids]


def rows_to_train_on(dataset: EmbeddingQAFinetuneDataset, options: TrainingOptions) -> Rows:
    """Number the rows of a dataset that its training needs, so that no other is embedded.

    These are the relevant documents and the hard negatives; all, where all are negatives; and,
    for cross-validation, others that the held-out ones are ranked among: as many as there are
    relevant ones, or 500 where these are fewer. More of them change the scores, but not by how
    much a stage of training raises them.
    """
    rows = Rows.of(dataset)
    positives = {row for own in rows.positives for row in own}
    needed = positives.union(*rows.hard)
    others = sorted(set(range(len(rows.document_ids))) - needed)
    if options.negatives == "corpus":
        needed.update(others)
    elif options.cross_validates:
        order = np.random.default_rng(options.seed).permutation(len(others))
        needed.update(others[i] for i in order[: max(_LEAST_BYSTANDERS, len(positives))])
    return rows.keep(sorted(needed))


class TrainingSet:
    """Pairs of a query and a relevant document, and the documents to train them against.

    Args:
        vectors: The vectors; documents are scaled to length one where the adapter is not for texts.
        negatives: Which documents serve as negatives.
        use: The queries to train on.
        hidden: Documents that are never seen; none of them is relevant to a query in use.
    """

    def __init__(
        self,
        vectors: Vectors,
        negatives: Negatives,
        *,
        use: Collection[int],
        hidden: frozenset[int] = frozenset(),
    ) -> None:
        rows = vectors.rows
        self.queries = vectors.queries
        self.documents = vectors.documents
        device = self.queries.device
        pairs = [(query, row) for query in use for row in rows.positives[query]]
        self.pairs = torch.tensor(pairs, dtype=torch.long, device=device)
        self._pool: Tensor | None = None
        if negatives != "in_batch":
            everything = (
                range(len(self.documents)) if negatives == "corpus" else {row for _, row in pairs}
            )
            self._pool = torch.tensor(sorted(set(everything) - hidden), device=device)
        hard = [[row for row in own if row not in hidden] for own in rows.hard]
        self.hard = _padded(hard, device)
        # Barred and hard rows of all queries end to end, with each query's place in that list.
        apart = [[*own, *more] for own, more in zip(rows.barred, rows.hard, strict=True)]
        lengths = torch.tensor([len(own) for own in apart], device=device)
        self._n_apart = lengths
        self._start = lengths.cumsum(0) - lengths
        self._apart = torch.tensor([row for own in apart for row in own], device=device)
        self._column = torch.full((len(self.documents),), -1, dtype=torch.long, device=device)

    def candidates(self, positives: Tensor, limit: int, generator: torch.Generator) -> Tensor:
        """Return the documents of one step, the batch's own positives among them.

        Args:
            positives: The batch's documents.
            limit: How many of the pool to sample where it is larger.
            generator: Source of the sample.
        """
        if self._pool is None:
            own: Tensor = torch.unique(positives)
            return own
        if len(self._pool) <= limit:
            return self._pool
        sample = torch.randint(len(self._pool), (limit,), generator=generator)
        sampled = self._pool[sample.to(self._pool.device)]
        found: Tensor = torch.unique(torch.cat([sampled, positives]))
        return found

    def columns(
        self, queries: Tensor, positives: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find each pair's positive among the candidates, and what is no common negative of it.

        Returns:
            The positives' columns, shape ``(n_pairs,)``, and a mask of what is barred from the
            query's negatives and of its hard negatives, which have a weight of their own;
            shape ``(n_pairs, n_candidates)``.
        """
        self._column[candidates] = torch.arange(len(candidates), device=candidates.device)
        target = self._column[positives]
        lengths = self._n_apart[queries]
        pair = torch.arange(len(queries), device=queries.device).repeat_interleave(lengths)
        offset = torch.arange(len(pair), device=pair.device)
        offset -= (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        column = self._column[self._apart[self._start[queries].repeat_interleave(lengths) + offset]]
        self._column[candidates] = -1
        mask = torch.zeros(len(queries), len(candidates), dtype=torch.bool, device=queries.device)
        there = column >= 0
        mask[pair[there], column[there]] = True
        mask[torch.arange(len(queries), device=queries.device), target] = False
        return target, mask


def _padded(lists: list[list[int]], device: torch.device) -> Tensor | None:
    """Return lists of rows as one table padded with -1, or None where all are empty."""
    width = max((len(one) for one in lists), default=0)
    if not width:
        return None
    table = [one + [-1] * (width - len(one)) for one in lists]
    return torch.tensor(table, dtype=torch.long, device=device)
