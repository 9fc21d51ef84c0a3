"""Evaluate a ranking, vectors or an embedding model on a dataset."""

import logging
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import ArrayLike, NDArray

from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
)
from llama_index.finetuning.embeddings.encoding import Side, encode
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.evaluation.judgements import (
    Judgements,
    Relevance,
    check_relevance,
)
from llama_index.finetuning.embeddings.evaluation.metrics import all_metrics, metric_names
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.search import Similarity, check_similarity, top_k

logger = logging.getLogger(__name__)

DEFAULT_K_VALUES = (1, 3, 5, 10)
DEPTH = 100


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """What one system retrieved for every query of a dataset, and how good that is.

    Attributes:
        metrics: The mean over queries of each metric, by names like ``"ndcg@10"``; 0 to 1.
        per_query: Each metric's values, shape (n_queries,), in the order of the queries.
        indices: The rows of the retrieved documents in the corpus, best first, shape
            (n_queries, depth); -1 stands for no document.
        scores: Their scores, of the same shape; comparable within a query only.
        query_ids: The ids of the queries, in order.
        document_ids: The ids of the corpus, in order.
        dim: The size of the vectors; None for a system without vectors.
    """

    metrics: dict[str, float]
    per_query: dict[str, NDArray[np.float64]] = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    query_ids: list[str] = field(repr=False)
    document_ids: list[str] = field(repr=False)
    dim: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the means and the values per query as plain Python objects."""
        return {
            "metrics": dict(self.metrics),
            "per_query": {
                name: dict(zip(self.query_ids, values.tolist(), strict=True))
                for name, values in self.per_query.items()
            },
        }


def evaluate_retrieval(
    embed_model: BaseEmbedding,
    dataset: EmbeddingQAFinetuneDataset,
    *,
    k_values: Sequence[int] = DEFAULT_K_VALUES,
    similarity: Similarity = "cosine",
    relevance: Relevance | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> RetrievalResult:
    """Embed a dataset with a model, search exactly, and score what was found.

    Queries go through the model's query side and documents through its text side, as in a
    LlamaIndex index; every distinct text is embedded once. A query that stands in the corpus
    itself, as in ArguAna, competes with the documents; a warning counts such queries.

    Args:
        embed_model: Any LlamaIndex embedding model.
        dataset: Queries, corpus and relevant documents.
        k_values: The cut-offs of the metrics.
        similarity: ``"cosine"`` (as ``VectorStoreIndex`` ranks by default) or ``"dot"``.
        relevance: Graded judgements that take the place of ``relevant_docs``; see `Judgements`.
        cache_dir: A folder that keeps the vectors for the next evaluation of the same model.
        show_progress: Show a progress bar.

    Raises:
        ConfigurationError: An argument is out of range.
        DatasetError: ``relevance`` does not fit the dataset.
        EncodingError: The model returned unusable vectors.
    """
    dataset = require_dataset(dataset, name="dataset")
    k_values = check_sizes(k_values, "k_values")
    check_similarity(similarity)
    check_relevance(dataset, relevance)
    warn_of_own_texts(dataset)
    queries, documents = (
        encode_side(embed_model, dataset, side, cache_dir=cache_dir, show_progress=show_progress)
        for side in get_args(Side)
    )
    return evaluate_vectors(
        queries, documents, dataset, k_values=k_values, similarity=similarity, relevance=relevance
    )


def encode_side(
    embed_model: BaseEmbedding,
    dataset: EmbeddingQAFinetuneDataset,
    side: Side,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> NDArray[np.float32]:
    """Return the vectors of a dataset's queries or of its corpus, in their order."""
    texts = dataset.queries if side == "query" else dataset.corpus
    return encode(
        embed_model,
        list(texts.values()),
        side,
        ids=list(texts),
        cache_dir=cache_dir,
        show_progress=show_progress,
    )


def evaluate_vectors(
    query_vectors: ArrayLike,
    document_vectors: ArrayLike,
    dataset: EmbeddingQAFinetuneDataset,
    *,
    k_values: Sequence[int] = DEFAULT_K_VALUES,
    similarity: Similarity = "cosine",
    relevance: Relevance | None = None,
) -> RetrievalResult:
    """Search exactly among vectors that exist already, and score what was found.

    Args:
        query_vectors: One row per query, in the order of ``dataset.queries``.
        document_vectors: One row per document, in the order of ``dataset.corpus``.
        dataset: Queries, corpus and relevant documents.
        k_values: The cut-offs of the metrics.
        similarity: ``"cosine"`` or ``"dot"``.
        relevance: Graded judgements that take the place of ``relevant_docs``; see `Judgements`.

    Raises:
        ConfigurationError: The vectors do not fit the dataset, or an argument is out of range.
        DatasetError: ``relevance`` does not fit the dataset.
        EncodingError: A vector holds a value that is not finite.
    """
    k_values = check_sizes(k_values, "k_values")
    _check_rows(len(np.asanyarray(query_vectors)), len(dataset.queries), "query_vectors")
    _check_rows(len(np.asanyarray(document_vectors)), len(dataset.corpus), "document_vectors")
    scores, indices = top_k(
        query_vectors, document_vectors, max(DEPTH, *k_values), similarity=similarity
    )
    dim = np.shape(query_vectors)[1]
    return evaluate_rankings(
        indices, dataset, scores=scores, k_values=k_values, relevance=relevance, dim=dim
    )


def evaluate_rankings(
    indices: ArrayLike,
    dataset: EmbeddingQAFinetuneDataset,
    *,
    scores: NDArray[np.float32] | None = None,
    k_values: Sequence[int] = DEFAULT_K_VALUES,
    relevance: Relevance | None = None,
    dim: int | None = None,
) -> RetrievalResult:
    """Score rankings that exist already, from any retriever.

    Args:
        indices: Rows of ``dataset.corpus``, best first, shape (n_queries, depth); -1 stands for
            no document. Documents beyond ``depth`` count as not retrieved.
        dataset: Queries, corpus and relevant documents.
        scores: The scores that go with ``indices``; by default falling numbers that only say
            the order.
        k_values: The cut-offs of the metrics.
        relevance: Graded judgements that take the place of ``relevant_docs``; see `Judgements`.
        dim: The size of the vectors, where the ranking came from some.

    Raises:
        ConfigurationError: The rankings do not fit the dataset or name a document twice, or a
            cut-off is out of range.
        DatasetError: ``relevance`` does not fit the dataset.
    """
    k_values = check_sizes(k_values, "k_values")
    rankings = _checked_rankings(indices, dataset)
    judgements = Judgements(dataset, relevance)
    per_query = all_metrics(
        judgements.gains(rankings),
        judgements.ideal_gains(max(k_values)),
        judgements.n_relevant,
        metric_names(k_values),
    )
    if scores is None:
        falling = np.arange(rankings.shape[1], 0, -1, dtype=np.float32)
        scores = np.broadcast_to(falling, rankings.shape)
    return RetrievalResult(
        metrics={name: float(values.mean()) for name, values in per_query.items()},
        per_query=per_query,
        indices=rankings,
        scores=scores,
        query_ids=list(dataset.queries),
        document_ids=list(dataset.corpus),
        dim=dim,
    )


def check_sizes(sizes: Iterable[int], name: str) -> tuple[int, ...]:
    """Return an argument's numbers, which may be read only once.

    Raises:
        ConfigurationError: It holds none, or something else than whole numbers of at least 1.
    """
    try:
        found = tuple(map(operator.index, sizes))
    except TypeError:  # no numbers, or one that is not whole
        found = ()
    if not found or min(found) < 1:
        raise ConfigurationError(
            f"'{name}' must hold one or more whole numbers of at least 1 (got {sizes!r})."
        )
    return found


def warn_of_own_texts(dataset: EmbeddingQAFinetuneDataset) -> None:
    """Log how many queries stand in the corpus themselves without being their own answer."""
    index = RelevanceIndex(dataset)
    count = sum(bool(index.own_keys(qid) - index.relevant_keys(qid)) for qid in dataset.queries)
    if count:
        logger.warning(
            "%d of %d queries stand in the corpus themselves and are not among their relevant "
            "documents: they will likely find themselves first. Benchmarks leave such documents "
            "out of a query's ranking (ArguAna), so that their scores are higher.",
            count,
            len(dataset.queries),
        )


def _check_rows(rows: int, expected: int, name: str) -> None:
    if rows != expected:
        raise ConfigurationError(
            f"'{name}' must have one row for each of the dataset's {expected:,} entries, in their "
            f"order (got {rows:,} rows)."
        )


def _checked_rankings(
    rankings: ArrayLike, dataset: EmbeddingQAFinetuneDataset
) -> NDArray[np.int64]:
    try:
        indices = np.asarray(rankings)
    except ValueError as error:
        raise ConfigurationError(
            "'indices' must have rows of equal length; fill them up with -1."
        ) from error
    if indices.ndim != 2 or indices.size == 0:
        raise ConfigurationError(
            f"'indices' must have shape (n_queries, depth) (got {indices.shape})."
        )
    if indices.dtype.kind not in "iu":
        raise ConfigurationError(f"'indices' must be whole numbers (got {indices.dtype}).")
    _check_rows(len(indices), len(dataset.queries), "indices")
    if indices.min() < -1 or indices.max() >= len(dataset.corpus):
        raise ConfigurationError(
            f"'indices' must be rows of the corpus, below {len(dataset.corpus):,}, or -1 (got "
            f"{indices.min():,} to {indices.max():,})."
        )
    ordered = np.sort(indices, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        qid = list(dataset.queries)[int(twice.argmax())]
        raise ConfigurationError(
            f"'indices' must name a document once per query (the ranking of {qid!r} does not)."
        )
    return indices.astype(np.int64, copy=False)
