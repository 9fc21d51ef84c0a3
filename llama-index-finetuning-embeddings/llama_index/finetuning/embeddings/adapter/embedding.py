"""The vectors that an adapter is trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray
from torch import Tensor

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.vectors import Rows, Vectors
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.encoding import Side, encode, stated_dimension
from llama_index.finetuning.embeddings.encoding.identity import identity
from llama_index.finetuning.embeddings.errors import ConfigurationError, EncodingError


class Embedder:
    """Embeds through one model, and keeps the vectors for another run with the same model.

    Args:
        embed_model: The model.
        dim: Length of its vectors; None: what the model states, or else its first vector tells.

    Raises:
        ConfigurationError: ``dim`` is no length, or not that of the model's vectors.
    """

    def __init__(self, embed_model: BaseEmbedding, dim: int | None) -> None:
        stated = stated_dimension(embed_model)
        if dim is not None and (not isinstance(dim, int) or dim < 1 or dim != (stated or dim)):
            raise ConfigurationError(
                f"'dim' must be the length of the vectors of {embed_model.model_name!r}"
                f"{'' if stated is None else f', {stated}'} (got {dim}). Leave it out to have it "
                "found out."
            )
        self._embed_model = embed_model
        self._is_given = dim is not None
        self._is_certain = stated is not None
        # Of one model: the vectors by their texts, rows of what was embedded, for each side.
        self._kept_of = ""
        self._kept: dict[Side, dict[str, NDArray[np.float32]]] = {}
        self._last: tuple[Any, tuple[Tensor, Tensor]] | None = None
        self.dim = dim or stated

    def find_dim(self, dataset: EmbeddingQAFinetuneDataset, options: TrainingOptions) -> int:
        """Return the length of the model's vectors, by one document where it does not state it.

        The vector is kept, so that no training pays for this document again.
        """
        if self.dim is None or not self._is_certain:
            docid = dataset.relevant_docs[next(iter(dataset.queries))][0]
            text = dataset.corpus[docid]
            self._embed_new([(docid, text)], "text", options, identity(self._embed_model))
        return self.dim or 0

    def embed(
        self,
        texts: Sequence[tuple[str, str]],
        side: Side,
        options: TrainingOptions,
        known: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Tensor:
        """Embed pairs of an id and a text, shape ``(n_texts, dim)``; ``known`` texts are not paid.

        Raises:
            ConfigurationError: The vectors are not of the length ``dim``.
            EncodingError: The model failed, or gave unusable vectors.
            OutputError: The cache can't be written.
        """
        vectors = encode(
            self._embed_model,
            [text for _, text in texts],
            side,
            ids=[id_ for id_, _ in texts],
            num_workers=options.num_workers,
            cache_dir=options.cache_dir,
            show_progress=options.show_progress_bar,
            known=known,
        )
        if self.dim is not None and vectors.shape[1] != self.dim:
            if not self._is_given:
                raise EncodingError(
                    f"The embedding model {self._embed_model.model_name!r} gives vectors of "
                    f"{vectors.shape[1]} dimensions for each {side}, and stated, or gave before, "
                    f"{self.dim}. Queries and texts need vectors of one length."
                )
            raise ConfigurationError(
                f"'dim' must be the length of the vectors of {self._embed_model.model_name!r}, "
                f"which have {vectors.shape[1]} dimensions (got {self.dim}). Leave it out to have "
                "it found out."
            )
        self.dim, self._is_certain = vectors.shape[1], True
        return torch.from_numpy(np.asarray(vectors))

    def _embed_new(
        self, texts: Sequence[tuple[str, str]], side: Side, options: TrainingOptions, model: str
    ) -> Tensor:
        """Embed those texts that the model of this identity has not embedded yet, and keep them."""
        if model != self._kept_of:
            self._kept_of, self._kept = model, {}
        kept = self._kept.setdefault(side, {})
        vectors = self.embed(texts, side, options, kept)
        # Rows of the newest table, so that earlier ones end when none of their texts is left.
        kept.update(zip((text for _, text in texts), vectors.numpy(), strict=True))
        return vectors

    def embed_all(
        self,
        parts: Sequence[tuple[EmbeddingQAFinetuneDataset, Rows]],
        options: TrainingOptions,
        device: torch.device,
    ) -> list[Vectors]:
        """Embed datasets, of each one's documents those that its rows name."""
        # All sets in one call a side: they may share texts.
        queries = [pair for dataset, _ in parts for pair in dataset.queries.items()]
        documents = [(id_, one.corpus[id_]) for one, rows in parts for id_ in rows.document_ids]
        model = identity(self._embed_model)
        key = model, queries, documents
        if self._last is None or self._last[0] != key:
            self._last = None
            query_side = self._embed_new(queries, "query", options, model)
            self._last = key, (query_side, self._embed_new(documents, "text", options, model))
        query_vectors, document_vectors = (one.to(device) for one in self._last[1])
        found = []
        for dataset, rows in parts:
            n_queries, n_documents = len(dataset.queries), len(rows.document_ids)
            found.append(
                Vectors(query_vectors[:n_queries], document_vectors[:n_documents], rows, dataset)
            )
            query_vectors = query_vectors[n_queries:]
            document_vectors = document_vectors[n_documents:]
        return found
