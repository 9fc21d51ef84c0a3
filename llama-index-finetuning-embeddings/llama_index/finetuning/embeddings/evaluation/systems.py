"""Evaluate several systems on one dataset: embedding models, BM25, and the fusion of both."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.encoding import Side, adapted, source_of
from llama_index.finetuning.embeddings.errors import ConfigurationError, require
from llama_index.finetuning.embeddings.evaluation.bm25 import bm25_rankings
from llama_index.finetuning.embeddings.evaluation.evaluate import (
    DEPTH,
    RetrievalResult,
    check_sizes,
    encode_side,
    evaluate_rankings,
    evaluate_vectors,
    warn_of_own_texts,
)
from llama_index.finetuning.embeddings.evaluation.fusion import reciprocal_rank_fusion
from llama_index.finetuning.embeddings.evaluation.judgements import Relevance, check_relevance
from llama_index.finetuning.embeddings.search import Similarity, check_similarity

BM25 = "bm25"
_BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class DimensionResult:
    """How good retrieval is when only the first numbers of every vector are kept.

    Attributes:
        dim: Numbers kept.
        metrics: System to the mean of the main metric; systems with shorter vectors are absent.
    """

    dim: int
    metrics: dict[str, float]

    def index_bytes(self, n_vectors: int) -> int:
        """Return the memory of an index of so many float32 vectors, its overhead aside."""
        return n_vectors * self.dim * _BYTES_PER_NUMBER


@dataclass(frozen=True)
class EvaluationOptions:
    """What all systems of a comparison share; see `evaluate_retrieval` for the meaning."""

    k_values: Sequence[int]
    similarity: Similarity = "cosine"
    relevance: Relevance | None = None
    cache_dir: str | os.PathLike[str] | None = None
    show_progress: bool = False


def evaluate_systems(
    models: Mapping[str, BaseEmbedding],
    dataset: EmbeddingQAFinetuneDataset,
    options: EvaluationOptions,
    *,
    metric: str,
    bm25: bool = False,
    dims: Sequence[int] | None = None,
) -> tuple[dict[str, RetrievalResult], list[DimensionResult]]:
    """Evaluate models, one after the other, and what is compared with them.

    A model that stands under two names is evaluated once, and what several models have from the
    same one (both sides, for a base and its adapter) is embedded once.

    Args:
        models: Name to embedding model, at least one.
        dataset: Queries, corpus and relevant documents.
        options: Cut-offs, similarity and so on.
        metric: The metric for the dimensions and for choosing the best model.
        bm25: Add BM25, and its reciprocal-rank fusion with the best of the models.
        dims: Also evaluate these prefixes of the vectors (Matryoshka embeddings, Kusupati et
            al., 2022), and the whole vectors of every model.

    Returns:
        System to result, the models first, and the results by dimension, smallest first.

    Raises:
        ConfigurationError: An argument is out of range.
        DatasetError: The judgements do not fit the dataset.
        EncodingError: A model returned unusable vectors.
        MissingExtraError: bm25s is needed and not installed.
    """
    _check(models, dataset, options, bm25)
    dims = None if dims is None else check_sizes(dims, "dims")
    warn_of_own_texts(dataset)
    vectors = _Vectors(models.values(), dataset, options)
    results: dict[str, RetrievalResult] = {}
    by_dim: dict[int, dict[str, float]] = {}
    *_, last = {id(model): model for model in models.values()}.values()
    longest = 0
    for name, model in models.items():
        twin = next((other for other in results if models[other] is model), None)
        if twin is not None:
            results[name] = results[twin]
            for found in by_dim.values():
                if twin in found:
                    found[name] = found[twin]
            continue
        queries = vectors.of(model, "query")
        size = queries.shape[1]
        longest = max(longest, size)
        if dims is not None and model is last and max(dims) > longest:
            raise ConfigurationError(
                f"'dims' must be at most {longest}, the length of the longest vectors (got "
                f"{list(dims)})."
            )
        documents = vectors.of(model, "text")
        for dim in sorted({*(() if dims is None else dims), size}):
            if dim <= size:
                result = evaluate_vectors(
                    queries[:, :dim],
                    documents[:, :dim],
                    dataset,
                    k_values=options.k_values,
                    similarity=options.similarity,
                    relevance=options.relevance,
                )
                by_dim.setdefault(dim, {})[name] = result.metrics[metric]
        results[name] = result
    if bm25:
        best = max(results, key=lambda name: results[name].metrics[metric])
        results[BM25], results[f"{BM25} + {best}"] = _lexical(dataset, results[best], options)
    # Plain integers, where an array of dimensions was given: reports are written as JSON.
    dimensions = [DimensionResult(int(dim), by_dim[dim]) for dim in sorted(by_dim)]
    return results, [] if dims is None else dimensions


class _Vectors:
    """Vectors by side, embedded once for all models that share them, and then let go."""

    def __init__(
        self,
        models: Iterable[BaseEmbedding],
        dataset: EmbeddingQAFinetuneDataset,
        options: EvaluationOptions,
    ) -> None:
        self._dataset = dataset
        self._options = options
        distinct = {id(model): model for model in models}.values()
        self._uses = Counter(_key(model, side) for model in distinct for side in get_args(Side))
        self._kept: dict[tuple[int, Side], NDArray[np.float32]] = {}

    def of(self, model: BaseEmbedding, side: Side) -> NDArray[np.float32]:
        """Return the vectors of a side; to be asked once for each model."""
        source, adapters = source_of(model, side)
        key = id(source), side
        found = self._kept.pop(key, None)
        if found is None:
            found = encode_side(
                source,
                self._dataset,
                side,
                cache_dir=self._options.cache_dir,
                show_progress=self._options.show_progress,
            )
        self._uses[key] -= 1
        if self._uses[key]:
            self._kept[key] = found
        return adapted(found, adapters, side)


def _key(model: BaseEmbedding, side: Side) -> tuple[int, Side]:
    return id(source_of(model, side)[0]), side


def _lexical(
    dataset: EmbeddingQAFinetuneDataset, dense: RetrievalResult, options: EvaluationOptions
) -> tuple[RetrievalResult, RetrievalResult]:
    depth = max(DEPTH, *options.k_values)
    lexical = bm25_rankings(dataset, depth)
    fused = reciprocal_rank_fusion([lexical[0], dense.indices], depth=depth)
    one, other = (
        evaluate_rankings(
            indices,
            dataset,
            scores=scores,
            k_values=options.k_values,
            relevance=options.relevance,
        )
        for indices, scores in (lexical, fused)
    )
    return one, other


def _check(
    models: Mapping[str, BaseEmbedding],
    dataset: EmbeddingQAFinetuneDataset,
    options: EvaluationOptions,
    bm25: bool,
) -> None:
    check_similarity(options.similarity)
    check_relevance(dataset, options.relevance)
    if not isinstance(models, Mapping):
        raise ConfigurationError(
            "'models' must map names to embedding models, such as {'base': base, 'finetuned': "
            f"finetuned}} (got {type(models).__name__})."
        )
    if not models:
        raise ConfigurationError("'models' must hold at least one embedding model (got none).")
    for name, model in models.items():
        if not isinstance(name, str):
            raise ConfigurationError(
                f"'models' must have names that are strings (got {name!r}). Write {str(name)!r}."
            )
        if not isinstance(model, BaseEmbedding):
            raise ConfigurationError(
                f"'models' must map names to LlamaIndex embedding models (got "
                f"{type(model).__name__} for {name!r})."
            )
    if bm25:
        require("bm25s", extra="bm25", purpose="Comparing with BM25")
        taken = [name for name in models if name.startswith(BM25)]
        if taken:
            raise ConfigurationError(
                f"'models' must not use names that start with {BM25!r} when BM25 is added (got "
                f"{taken})."
            )
