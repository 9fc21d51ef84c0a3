"""The lexical baseline: BM25, which a finetuned model should be compared with before it is used."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import require
from llama_index.finetuning.embeddings.words import combining_marks

_JOINERS = "\u200c\u200d"  # without a width, inside words of Persian and Hindi


def bm25_rankings(
    dataset: EmbeddingQAFinetuneDataset, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the corpus for every query by BM25 (Robertson and Zaragoza, 2009).

    The scores are those of bm25s with its defaults (Lucene's variant, k1 = 1.5, b = 0.75) over
    lower-cased words, without stop words or stemming, so that no language is favoured; an accent
    is the same composed or not, and scripts that write no spaces between words are served badly.
    Documents that share no word with a query are not retrieved; equal scores keep the order of
    the corpus.

    Args:
        dataset: Queries and corpus.
        depth: Documents per query.

    Returns:
        Rows of the corpus, best first and -1 where there is no further document, and their
        scores; both of shape (n_queries, min(depth, n_documents)).

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    bm25s = require("bm25s", extra="bm25", purpose="Comparing with BM25")

    # Letters, with their marks, and digits of any script; an underscore parts words, so that
    # identifiers match.
    marks = rf"(?![\x00-\x7f])[{combining_marks()}{_JOINERS}]+"  # not looked for in ASCII
    pattern = rf"(?u)[^\W_]+(?:{marks}[^\W_]*)*"

    def words(texts: list[str]) -> list[list[str]]:
        composed = [unicodedata.normalize("NFC", text) for text in texts]
        tokens: list[list[str]] = bm25s.tokenize(
            composed, stopwords=None, token_pattern=pattern, return_ids=False, show_progress=False
        )
        return tokens

    documents = words(list(dataset.corpus.values()))
    depth = min(depth, len(documents))
    indices = np.full((len(dataset.queries), depth), -1, dtype=np.int64)
    scores = np.zeros(indices.shape, dtype=np.float32)
    if not any(documents):
        return indices, scores
    index = bm25s.BM25()
    index.index(documents, show_progress=False)
    for row, query in enumerate(words(list(dataset.queries.values()))):
        if query:
            found = index.get_scores(query)
            best = _best(found, depth)
            indices[row, : len(best)] = best
            scores[row, : len(best)] = found[best]
    return indices, scores


def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Return the rows of the highest scores above 0, best first, lower rows first among equals."""
    lowest = np.partition(scores, len(scores) - depth)[len(scores) - depth]
    candidates = np.flatnonzero((scores >= lowest) & (scores > 0))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:depth]
