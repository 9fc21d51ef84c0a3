"""The documents that rank next to a query's relevant ones, and their scores."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.errors import EncodingError, require
from llama_index.finetuning.embeddings.relevance import RelevanceIndex

Vectors: TypeAlias = NDArray[np.float32]
Search: TypeAlias = Callable[[Vectors, Vectors, int], tuple[Vectors, NDArray[np.int64]]]

_QUERIES_AT_A_TIME = 4096


class PairScorer(Protocol):
    """What scores pairs of texts, such as a sentence-transformers ``CrossEncoder``."""

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        """Return one number per (query, document), higher for more relevant."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """A query's candidates, as keys of the relevance index, and the scores to judge them by."""

    query_id: str
    keys: NDArray[np.int64]
    scores: Vectors
    positive_keys: NDArray[np.int64]
    positive_scores: Vectors


def ranked(
    index: RelevanceIndex,
    query_ids: Sequence[str],
    vectors: tuple[Vectors, Vectors],
    range_max: int,
    search: Search,
) -> Iterator[list[Candidates]]:
    """Yield the best documents that are not relevant, for some thousand queries at a time.

    Nor is the query itself a candidate, where it stands in the corpus.

    Args:
        index: Which keys are relevant to which query.
        query_ids: The queries.
        vectors: Of the queries, in that order, and of the documents, in the order of the keys.
        range_max: Candidates per query.
        search: Finds the most similar documents.
    """
    queries, documents = vectors
    relevant = [np.fromiter(index.relevant_keys(qid), np.int64) for qid in query_ids]
    barred = [np.fromiter(index.barred_keys(qid), np.int64) for qid in query_ids]
    # By number of positives: a query with a thousand of them lengthens the search of few others.
    order = np.argsort([len(keys) for keys in barred], kind="stable")
    for start in range(0, len(order), _QUERIES_AT_A_TIME):
        rows = order[start : start + _QUERIES_AT_A_TIME]
        k = min(range_max + len(barred[rows[-1]]), len(documents))
        all_scores, all_keys = search(queries[rows], documents, k)
        block = []
        for row, scores, keys in zip(rows.tolist(), all_scores, all_keys, strict=True):
            kept = np.flatnonzero(~np.isin(keys, barred[row]))[:range_max]
            positive_scores = _cosines(queries[row], documents[relevant[row]])
            block.append(
                Candidates(query_ids[row], keys[kept], scores[kept], relevant[row], positive_scores)
            )
        yield block


def rescored(
    block: list[Candidates],
    cross_encoder: PairScorer,
    queries: Mapping[str, str],
    texts: Sequence[str],
) -> list[Candidates]:
    """Replace the scores of candidates and positives by a cross-encoder's.

    Args:
        block: Candidates of some queries.
        cross_encoder: Scores the pairs.
        queries: Query id to text.
        texts: The text of every key.

    Raises:
        EncodingError: It gives anything but one finite number per pair.
    """
    pairs = [
        (queries[one.query_id], texts[key])
        for one in block
        for key in (*one.keys.tolist(), *one.positive_keys.tolist())
    ]
    scores = score_pairs(cross_encoder, pairs)
    found, at = [], 0
    for one in block:
        middle, end = at + len(one.keys), at + len(one.keys) + len(one.positive_keys)
        found.append(
            dataclasses.replace(one, scores=scores[at:middle], positive_scores=scores[middle:end])
        )
        at = end
    return found


def score_pairs(cross_encoder: PairScorer, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
    """Score pairs of a query and a document; shape (n_pairs,).

    Raises:
        EncodingError: The model gives anything but one finite number per pair.
    """
    scores = np.asarray(cross_encoder.predict(pairs), dtype=np.float32)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise EncodingError(
            "'cross_encoder' must give one finite number per pair (got shape "
            f"{scores.shape} for {len(pairs):,} pairs). Use a model with one label."
        )
    return scores


def faiss_search() -> Search:
    """Return an exact search by faiss over the first documents that it is given.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss = require("faiss", extra="faiss", purpose="use_faiss=True")
    indexes: list[Any] = []

    def search(queries: Vectors, documents: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        if not indexes:
            indexes.append(faiss.IndexFlatIP(documents.shape[1]))
            for start in range(0, len(documents), _QUERIES_AT_A_TIME):
                indexes[0].add(_unit(documents[start : start + _QUERIES_AT_A_TIME]))
        scores, keys = indexes[0].search(_unit(queries), k)
        return scores, keys

    return search


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def _cosines(query: Vectors, documents: Vectors) -> Vectors:
    """Score as the search does, in double precision and rounded, so that equal texts are equal."""
    products = query.astype(np.float64) * documents
    norms = np.linalg.norm(query.astype(np.float64)) * np.linalg.norm(
        documents.astype(np.float64), axis=1
    )
    cosines: Vectors = (products.sum(axis=1) / np.where(norms > 0, norms, 1)).astype(np.float32)
    return cosines
