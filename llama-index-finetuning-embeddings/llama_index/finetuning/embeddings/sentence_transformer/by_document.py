"""By-document steps: each document and each query is encoded once, whatever they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.sentence_transformer import upstream
from llama_index.finetuning.embeddings.sentence_transformer.rows import DocumentRow, RowKeys

NEGATIVE, POSITIVE, MASKED = 0, 1, -1


@dataclass(frozen=True)
class Step:
    """The texts of one step and how they relate.

    Attributes:
        queries: Distinct queries.
        documents: Distinct documents: the rows' own and their queries' hard negatives.
        targets: Shape ``(n_queries, n_documents)``, int8: POSITIVE where the pair is trained,
            MASKED where the document is relevant to the query but not trained here, NEGATIVE
            everywhere else.
    """

    queries: list[str]
    documents: list[str]
    targets: Tensor


class StepBuilder:
    """Turn document rows into steps."""

    def __init__(self, dataset: EmbeddingQAFinetuneDataset, rows: Sequence[DocumentRow]) -> None:
        self._dataset = dataset
        self._index = RelevanceIndex(dataset)
        self.rows = rows
        self.keys = [self._row_keys(row) for row in rows]

    def _row_keys(self, row: DocumentRow) -> RowKeys:
        # Two rows of one document stay apart, so that a step's documents are distinct; anything
        # else may meet, because the targets mask what is relevant.
        key = frozenset([self._index.key_of[row.document_id]])
        return RowKeys(documents=key, relevant=key)

    def __call__(self, row_numbers: Sequence[int]) -> Step:
        """Lay out the step of some rows."""
        rows = [self.rows[i] for i in row_numbers]
        columns: dict[int, int] = {}
        documents: list[str] = []
        for docid in self._document_ids(rows):
            if self._index.key_of[docid] not in columns:
                columns[self._index.key_of[docid]] = len(documents)
                documents.append(self._dataset.corpus[docid])
        query_ids = list(dict.fromkeys(qid for row in rows for qid in row.query_ids))
        lines = {qid: i for i, qid in enumerate(query_ids)}
        targets = torch.full((len(query_ids), len(documents)), NEGATIVE, dtype=torch.int8)
        for qid, line in lines.items():
            for key in self._index.relevant_keys(qid):
                if key in columns:
                    targets[line, columns[key]] = MASKED
        for row in rows:
            column = columns[self._index.key_of[row.document_id]]
            for qid in row.query_ids:
                targets[lines[qid], column] = POSITIVE
        return Step([self._dataset.queries[qid] for qid in query_ids], documents, targets)

    def _document_ids(self, rows: list[DocumentRow]) -> list[str]:
        own = [row.document_id for row in rows]
        hard = self._dataset.hard_negatives or {}
        return own + [docid for row in rows for qid in row.query_ids for docid in hard.get(qid, ())]


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
