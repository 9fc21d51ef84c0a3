"""Exact nearest-neighbour search in blocks, with bounded memory and deterministic ties."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index.finetuning.embeddings.errors import ConfigurationError, EncodingError

Similarity = Literal["cosine", "dot"]

_BLOCK_ROWS = 16_384
_SCORES_PER_BLOCK = 1 << 23
_RESCORED_FLOATS = 1 << 20
_UNIT_ROUNDOFF = 2.0**-24


def top_k(
    query_vectors: ArrayLike,
    document_vectors: ArrayLike,
    k: int,
    *,
    similarity: Similarity = "cosine",
    block_rows: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k most similar documents of every query, exactly.

    Blocks of documents are multiplied with blocks of queries in single precision. Whatever the
    error bound of that product leaves in the running for a query's best k is scored again in
    double precision, rounded to float32 and merged. So a score depends on its two vectors alone,
    not on where a block ends: equal documents get equal scores, and equal scores keep the order
    of the documents. Beside its inputs and outputs the search holds some 200 MB, whatever the
    number of documents; a memory-mapped array is read block by block.

    Args:
        query_vectors: Shape (n_queries, dim); taken as float32.
        document_vectors: Shape (n_documents, dim); taken as float32.
        k: Documents per query; all of them where the corpus is smaller.
        similarity: ``"cosine"``, as LlamaIndex's vector stores rank by default (a zero vector
            has similarity 0), or ``"dot"``.
        block_rows: Documents per block; changes memory and speed, never the result.

    Returns:
        Scores and document indices, best first, both of shape (n_queries, min(k, n_documents)).

    Raises:
        ConfigurationError: Shapes do not fit, or an argument is out of range.
        EncodingError: A vector holds a value that is not finite.
    """
    queries = _matrix(query_vectors, "query_vectors")
    documents = _matrix(document_vectors, "document_vectors")
    block_rows = _BLOCK_ROWS if block_rows is None else block_rows
    _check(queries, documents, k, similarity, block_rows)
    k = min(k, len(documents))
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    indices = np.zeros((len(queries), k), dtype=np.int64)
    query_rows = max(1, _SCORES_PER_BLOCK // min(block_rows, len(documents)))
    for document_block in _blocks(documents, block_rows, "document_vectors", similarity):
        for query_block in _blocks(queries, query_rows, "query_vectors", similarity):
            here = slice(query_block.start, query_block.start + len(query_block.vectors))
            _merge(scores[here], indices[here], query_block, document_block)
    return scores, indices


@dataclass(frozen=True)
class _Block:
    """Consecutive rows: as given, as they enter the product, and what a dot product divides by."""

    start: int
    vectors: NDArray[np.float32]
    factors: NDArray[np.float32]
    lengths: NDArray[np.float64]
    divisors: NDArray[np.float64]


def _blocks(rows: NDArray[Any], size: int, name: str, similarity: Similarity) -> Iterator[_Block]:
    for start in range(0, len(rows), size):
        vectors = np.ascontiguousarray(rows[start : start + size], dtype=np.float32)
        if not np.isfinite(vectors).all():
            row = start + int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise EncodingError(
                f"'{name}' must be finite (row {row:,} holds NaN or infinity). Embed that text "
                "again, or remove it."
            )
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        ones = np.ones_like(lengths)
        if similarity == "dot":
            yield _Block(start, vectors, vectors, lengths, ones)
        else:
            divisors = np.where(lengths > 0, lengths, 1.0)
            factors = (vectors / divisors[:, None]).astype(np.float32)
            yield _Block(start, vectors, factors, ones, divisors)


def _merge(
    scores: NDArray[np.float32],
    indices: NDArray[np.int64],
    queries: _Block,
    documents: _Block,
) -> None:
    """Merge a block of documents into the running best of a block of queries, in place."""
    k = scores.shape[1]
    product = queries.factors @ documents.factors.T
    # Higham, Accuracy and Stability of Numerical Algorithms, 3.1; the 8 covers normalising.
    bound = (queries.vectors.shape[1] + 8) * _UNIT_ROUNDOFF
    margin = (bound * documents.lengths.max() * queries.lengths).astype(np.float32)
    if documents.start >= k:
        threshold = scores[:, -1] - margin
    elif product.shape[1] > k:
        at = product.shape[1] - k
        threshold = np.partition(product, at, axis=1)[:, at] - 2 * margin
    else:
        threshold = np.full(len(product), -np.inf, dtype=np.float32)
    # One-dimensional nonzero has a fast path that two-dimensional lacks.
    rows, columns = np.divmod(
        np.flatnonzero((product >= threshold[:, None]).ravel()), product.shape[1]
    )
    if not len(rows):
        return
    counts = np.bincount(rows, minlength=len(product))
    slots = k + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    pool_scores = np.full((len(product), k + int(counts.max())), -np.inf, dtype=np.float32)
    pool_indices = np.zeros(pool_scores.shape, dtype=np.int64)
    pool_scores[:, :k], pool_indices[:, :k] = scores, indices
    pool_scores[rows, slots] = _rescored(queries, documents, rows, columns)
    pool_indices[rows, slots] = columns + documents.start
    # The running best come first and candidates in document order: stable means lower index first.
    order = np.argsort(-pool_scores, axis=1, kind="stable")[:, :k]
    scores[:] = np.take_along_axis(pool_scores, order, axis=1)
    indices[:] = np.take_along_axis(pool_indices, order, axis=1)


def _rescored(
    queries: _Block, documents: _Block, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Score pairs in double precision, each summed in the same order wherever it stands."""
    scores = np.empty(len(rows), dtype=np.float32)
    size = max(1, _RESCORED_FLOATS // queries.vectors.shape[1])
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        products = queries.vectors[rows[here]].astype(np.float64)
        products *= documents.vectors[columns[here]]
        divisors = queries.divisors[rows[here]] * documents.divisors[columns[here]]
        scores[here] = products.sum(axis=1) / divisors
    return scores


def check_similarity(similarity: str) -> None:
    """Raise ConfigurationError unless a similarity is known."""
    if similarity not in get_args(Similarity):
        raise ConfigurationError(
            f"'similarity' must be in {get_args(Similarity)} (got {similarity!r})."
        )


def _matrix(values: ArrayLike, name: str) -> NDArray[Any]:
    matrix = np.asanyarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise ConfigurationError(
            f"'{name}' must be a table of numbers with one row per text (got shape "
            f"{matrix.shape} of {matrix.dtype})."
        )
    return matrix


def _check(
    queries: NDArray[Any], documents: NDArray[Any], k: int, similarity: str, block_rows: int
) -> None:
    if queries.shape[1] != documents.shape[1]:
        raise ConfigurationError(
            f"Query vectors have {queries.shape[1]} dimensions and document vectors "
            f"{documents.shape[1]}: both sides must be embedded by models of the same size."
        )
    if not documents.size:
        raise ConfigurationError("'document_vectors' must hold at least one number (got none).")
    if k < 1:
        raise ConfigurationError(f"'k' must be at least 1 (got {k}).")
    if block_rows < 1:
        raise ConfigurationError(f"'block_rows' must be at least 1 (got {block_rows}).")
    check_similarity(similarity)
