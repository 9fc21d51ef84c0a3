"""Steps of queries and documents: each is encoded once, whatever they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.sentence_transformer.rows import DocumentRow, RowKeys

NEGATIVE, POSITIVE, MASKED = 0, 1, -1


@dataclass(frozen=True)
class Targets:
    """How the queries and documents of a step relate.

    Attributes:
        matrix: Shape ``(n_queries, n_documents)``, int8: POSITIVE where the pair is trained,
            MASKED where the document is relevant to the query but not trained here, or is the
            query itself, NEGATIVE everywhere else.
        document_keys: Each document's key in a `RelevanceIndex`, shape ``(n_documents,)``.
        barred_keys: For each query, the keys of all documents that must not be its negatives.
    """

    matrix: Tensor
    document_keys: Tensor
    barred_keys: list[frozenset[int]]

    def to(self, device: Any, **kwargs: Any) -> "Targets":
        """Move the tensors to a device; the Trainer does it with what a collator returns."""
        matrix, keys = self.matrix.to(device, **kwargs), self.document_keys.to(device, **kwargs)
        return replace(self, matrix=matrix, document_keys=keys)

    def among(self, document_keys: Tensor, start: int) -> Tensor:
        """Return the matrix over the documents of all processes, ours from ``start`` on.

        Another process's document is masked where it must not be a negative of our queries.
        """
        keys = document_keys.tolist()
        wide = torch.full((len(self.barred_keys), len(keys)), NEGATIVE, dtype=torch.int8)
        for line, barred in enumerate(self.barred_keys):
            wide[line, [column for column, key in enumerate(keys) if key in barred]] = MASKED
        wide[:, start : start + self.matrix.shape[1]] = self.matrix.cpu()
        return wide.to(self.matrix.device)

    def repeated(self, document_keys: Tensor, start: int) -> Tensor:
        """Tell which documents of all processes stand among ours or in an earlier process.

        Returns:
            Shape ``(n_documents,)``; False for ours, which begin at ``start``.
        """
        keys = document_keys.tolist()
        own = range(start, start + self.matrix.shape[1])
        seen = {keys[column] for column in own}
        again = torch.zeros(len(keys), dtype=torch.bool)
        for column, key in enumerate(keys):
            if column not in own:
                again[column] = key in seen
                seen.add(key)
        return again.to(self.matrix.device)


@dataclass(frozen=True)
class Step:
    """The texts of one step and how they relate.

    Attributes:
        queries: The queries, each id once.
        documents: Distinct documents: the rows' own and their queries' hard negatives.
        targets: Which of them belong together.
    """

    queries: list[str]
    documents: list[str]
    targets: Targets


class StepBuilder:
    """Turn document rows into steps.

    Args:
        dataset: The training set.
        rows: The rows.
        false_negatives_apart: Keep rows out of one batch where a document of one is relevant to
            a query of the other, so that every query has all other rows' documents as negatives.
            Else such rows may meet, and the document is masked.
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        rows: Sequence[DocumentRow],
        *,
        false_negatives_apart: bool = False,
    ) -> None:
        self._dataset = dataset
        self._index = RelevanceIndex(dataset)
        self.rows = rows
        self.keys = [self._row_keys(row, false_negatives_apart) for row in rows]

    def _row_keys(self, row: DocumentRow, apart: bool) -> RowKeys:
        if apart:
            barred = frozenset().union(*map(self._index.barred_keys, row.query_ids))
            documents = map(self._index.key_of.__getitem__, self._document_ids([row]))
            return RowKeys(documents=frozenset(documents), barred=barred)
        # Two rows of one document stay apart, so that a step's documents are distinct; anything
        # else may meet, because the targets mask what is no negative.
        key = frozenset([self._index.key_of[row.document_id]])
        return RowKeys(documents=key, barred=key)

    @property
    def n_documents(self) -> int:
        """The number of distinct documents in all rows, their hard negatives included."""
        return len({self._index.key_of[docid] for docid in self._document_ids(self.rows)})

    def __call__(self, row_numbers: Sequence[int]) -> Step:
        """Lay out the step of some rows."""
        rows = [self.rows[i] for i in row_numbers]
        pairs = [(qid, row.document_id) for row in rows for qid in row.query_ids]
        # Of documents with one text the first stands for all.
        chosen = {self._index.key_of[docid]: docid for docid in reversed(self._document_ids(rows))}
        keys = dict(reversed(chosen.items()))
        query_ids = list(dict.fromkeys(qid for qid, _ in pairs))
        return Step(
            [self._dataset.queries[qid] for qid in query_ids],
            [self._dataset.corpus[docid] for docid in keys.values()],
            relate(self._index, pairs, list(keys)),
        )

    def _document_ids(self, rows: Sequence[DocumentRow]) -> list[str]:
        own = [row.document_id for row in rows]
        hard = self._dataset.hard_negatives or {}
        return own + [docid for row in rows for qid in row.query_ids for docid in hard.get(qid, ())]


def relate(
    index: RelevanceIndex, pairs: Sequence[tuple[str, str]], document_keys: Sequence[int]
) -> Targets:
    """Return the targets of some (query id, document id) pairs that are trained in a step.

    Args:
        index: Tells what is relevant.
        pairs: What is trained; the queries are in the order of their first pair.
        document_keys: The keys of the step's documents, those of the pairs among them.
    """
    columns = {key: column for column, key in enumerate(document_keys)}
    lines = {qid: line for line, qid in enumerate(dict.fromkeys(qid for qid, _ in pairs))}
    matrix = torch.full((len(lines), len(columns)), NEGATIVE, dtype=torch.int8)
    barred = [index.barred_keys(qid) for qid in lines]
    for line, keys in enumerate(barred):
        for key in keys & columns.keys():
            matrix[line, columns[key]] = MASKED
    for qid, docid in pairs:
        matrix[lines[qid], columns[index.key_of[docid]]] = POSITIVE
    return Targets(matrix, torch.tensor(list(document_keys)), barred)


class StepCollator:
    """Tokenize a step for the Trainer, in the columns that `DocumentRankingLoss` reads."""

    # The Trainer asks its collator which columns hold labels; rows have none.
    valid_label_columns: tuple[str, ...] = ()

    def __init__(
        self, model: SentenceTransformer, steps: StepBuilder, query_prompt: str, text_prompt: str
    ) -> None:
        self._model = model
        self._steps = steps
        self._prompts = {"query": query_prompt, "document": text_prompt}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return both sides' token tensors and the targets as ``label``."""
        step = self._steps([feature["row"] for feature in features])
        batch: dict[str, Any] = {"label": step.targets}
        for side, texts in (("query", step.queries), ("document", step.documents)):
            tokens = upstream.preprocess(self._model, texts, self._prompts[side])
            batch.update({f"{side}_{name}": value for name, value in tokens.items()})
        return batch
