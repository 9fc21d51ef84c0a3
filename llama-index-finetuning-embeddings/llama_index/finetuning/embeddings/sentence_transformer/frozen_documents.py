"""Training the encoder of the queries alone, against document vectors that stay as they are."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.sentence_transformer.by_document import (
    MASKED,
    NEGATIVE,
    relate,
)
from llama_index.finetuning.embeddings.sentence_transformer.length import cut_to
from llama_index.finetuning.embeddings.whitening import whitening_matrix

# Other documents of the corpus that are looked at for its spread, and how many of their tokens:
# by experiment, see benchmarks/RESULTS.md.
_OTHERS = 1000
_TOKENS_OF_OTHERS = 32
# Measured with MiniLM: 16 texts stay in a CPU's caches and take up to a tenth less time than 32.
_BATCH_TEXTS = {"cpu": 16}
_BATCH_TEXTS_ELSEWHERE = 32
# More documents than this are sampled in each step, so that a step's cost stays bounded.
_MAX_DOCUMENTS = 8192


class FrozenDocuments:
    """The documents that some query trains on, and their vectors by the untouched base.

    These are every query's relevant documents and hard negatives. A document that no query asks
    for would only ever be pushed away, so the others stay out.

    Args:
        dataset: The training set.
        pairs: The (query id, document id) pairs that are trained.
        text_prompt: Put before every document.
        whiten: Find the matrix that whitens the queries too.
        seed: Draws the other documents that it is found with.

    Attributes:
        vectors: The documents' vectors, shape ``(n_documents, dim)``; None before they are encoded.
        whitening: Shape ``(dim, dim)``; None where none was found, or asked for.
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        pairs: Sequence[tuple[str, str]],
        text_prompt: str,
        *,
        whiten: bool = False,
        seed: int = 0,
    ) -> None:
        self.index = RelevanceIndex(dataset)
        hard = dataset.hard_negatives or {}
        relevant = [docid for qid in dataset.queries for docid in dataset.relevant_docs[qid]]
        named = [docid for qid in dataset.queries for docid in hard.get(qid, ())]
        self._text_of = {self.index.key_of[d]: dataset.corpus[d] for d in [*relevant, *named]}
        self.keys = list(self._text_of)
        answers = {self.index.key_of[docid] for docid in relevant}
        self.only_hard = {key for key in self.keys if key not in answers}
        self.hard_keys = {
            qid: frozenset(self.index.key_of[docid] for docid in hard.get(qid, ()))
            for qid, _ in pairs
        }
        self._text_prompt = text_prompt
        self._whiten = whiten
        self._others = self._draw_others(dataset, seed) if whiten else []
        self.vectors: Tensor | None = None
        self.whitening: Tensor | None = None

    def _draw_others(self, dataset: EmbeddingQAFinetuneDataset, seed: int) -> list[str]:
        """Return texts of the corpus that no query trains on."""
        key_of = self.index.key_of
        texts = {key_of[docid]: text for docid, text in dataset.corpus.items()}
        others = [text for key, text in texts.items() if key not in self._text_of]
        drawn = np.random.default_rng(seed).permutation(len(others))[:_OTHERS]
        return [others[i] for i in drawn.tolist()]

    def take_over(self, other: "FrozenDocuments") -> None:
        """Use what the untouched base made for another loss; by now it may be trained."""
        same = (self.keys, self._text_prompt) == (other.keys, other._text_prompt)
        if same and (other._whiten or not self._whiten):
            self.vectors, self.whitening = other.vectors, other.whitening if self._whiten else None

    def encode(
        self, model: SentenceTransformer, dtype: torch.dtype | None, known: Mapping[str, Tensor]
    ) -> None:
        """Embed every document once; later calls keep what the first one made.

        Args:
            model: The untouched base.
            dtype: Half precision to compute in, None for the weights' own.
            known: Vectors of texts that the base has embedded already, each of shape ``(dim,)``.
        """
        if self.vectors is not None:
            return
        mixed = (
            contextlib.nullcontext()
            if dtype is None
            else torch.autocast(model.device.type, dtype=dtype)
        )
        with mixed:
            vectors = self._encoded(list(self._text_of.values()), model, known)
            spread = [vectors]
            if self._others:
                with cut_to(model, _TOKENS_OF_OTHERS):
                    spread.append(self._encoded(self._others, model, known))
        if self._whiten:
            self.whitening = whitening_matrix(torch.cat(spread))
        # Last, as it says that all is done.
        self.vectors = vectors

    def _encoded(
        self, texts: list[str], model: SentenceTransformer, known: Mapping[str, Tensor]
    ) -> Tensor:
        unknown = [text for text in texts if text not in known]
        made = model.encode(
            unknown,
            prompt=self._text_prompt or None,
            batch_size=_BATCH_TEXTS.get(model.device.type, _BATCH_TEXTS_ELSEWHERE),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        vectors = {**known, **dict(zip(unknown, made, strict=True))}
        # A copy: those made in inference mode can't take part in a gradient.
        return torch.stack([vectors[text].float().cpu().clone() for text in texts])


class QueryStepCollator:
    """Tokenize a step's queries and lay the documents' vectors beside them.

    Args:
        model: Tokenizes.
        dataset: The training set.
        rows: Each row's trained (query id, document id) pairs, all of one query.
        documents: The documents; encoded before the first step.
        query_prompt: Put before every query.
        seed: Draws the documents where there are more than a step takes.
    """

    # The Trainer asks its collator which columns hold labels; rows have none.
    valid_label_columns: tuple[str, ...] = ()

    def __init__(
        self,
        model: SentenceTransformer,
        dataset: EmbeddingQAFinetuneDataset,
        rows: Sequence[Sequence[tuple[str, str]]],
        documents: FrozenDocuments,
        query_prompt: str,
        seed: int,
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._rows = rows
        self._documents = documents
        self._row_of = {key: row for row, key in enumerate(documents.keys)}
        self._query_prompt = query_prompt
        self._seed = seed

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the queries' tokens, the documents' vectors and the targets as ``label``."""
        documents = self._documents
        if documents.vectors is None:
            raise RuntimeError("The documents must be encoded before the first step.")
        numbers = [feature["row"] for feature in features]
        pairs = [pair for number in numbers for pair in self._rows[number]]
        query_ids = list(dict.fromkeys(qid for qid, _ in pairs))
        keys = self._step_keys(numbers, pairs)
        targets = relate(documents.index, pairs, keys)
        self._hide_others_hard_negatives(targets.matrix, query_ids, keys)
        tokens = upstream.preprocess(
            self._model, [self._dataset.queries[qid] for qid in query_ids], self._query_prompt
        )
        batch: dict[str, Any] = {f"query_{name}": value for name, value in tokens.items()}
        vectors = documents.vectors
        if len(keys) < len(vectors):
            vectors = vectors[[self._row_of[key] for key in keys]]
        return {**batch, "document_sentence_embedding": vectors, "label": targets}

    def _step_keys(self, numbers: list[int], pairs: list[tuple[str, str]]) -> list[int]:
        keys = self._documents.keys
        if len(keys) <= _MAX_DOCUMENTS:
            return keys
        own = {self._documents.index.key_of[docid]: None for _, docid in pairs}
        n_relevant = len(own)
        for qid, _ in pairs:
            own.update(dict.fromkeys(self._documents.hard_keys[qid]))
        # Drawn by the step's rows, so that a resumed run draws the same.
        drawn = np.random.default_rng([self._seed, *numbers]).choice(
            len(keys), size=_MAX_DOCUMENTS, replace=False
        )
        own.update(dict.fromkeys(keys[i] for i in drawn.tolist()))
        return list(own)[: max(_MAX_DOCUMENTS, n_relevant)]

    def _hide_others_hard_negatives(
        self, matrix: Tensor, query_ids: list[str], keys: list[int]
    ) -> None:
        """Keep documents that are hard negatives only, from queries that do not name them."""
        if not self._documents.only_hard:
            return
        columns = [i for i, key in enumerate(keys) if key in self._documents.only_hard]
        place = {keys[column]: i for i, column in enumerate(columns)}
        block = matrix[:, columns]
        hidden = block == NEGATIVE
        for line, qid in enumerate(query_ids):
            named = self._documents.hard_keys[qid] & place.keys()
            hidden[line, [place[key] for key in named]] = False
        matrix[:, columns] = block.masked_fill(hidden, MASKED)
