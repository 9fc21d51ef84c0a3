"""Fake embedding models and small datasets that the tests share."""

import hashlib
import random
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset

TOPICS = ("river", "engine", "market", "garden", "planet", "violin", "castle", "doctor")
WORDS = tuple(
    """
amber bridge candle desert ember forest glacier harbor island jungle kettle lantern meadow
needle orchard pebble quartz ribbon saddle timber umbrella valley window yarn zephyr anchor
basket copper dragon eagle feather granite hammer ivory jacket knight ladder mirror nectar
""".split()
)


def word_vector(word: str, dim: int) -> np.ndarray:
    """Return a fixed random direction for a word, the same in every process."""
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8")).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)


class HashEmbedding(BaseEmbedding):
    """A bag of words: the normalised sum of fixed random directions, with its calls counted."""

    dim: int = 32
    query_prefix: str = ""
    _query_calls: int = PrivateAttr(default=0)
    _text_batches: list[int] = PrivateAttr(default_factory=list)
    _texts_seen: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, dim: int = 32, **kwargs: Any) -> None:
        super().__init__(dim=dim, model_name=kwargs.pop("model_name", "hash"), **kwargs)

    @classmethod
    def class_name(cls) -> str:
        return "HashEmbedding"

    @property
    def query_calls(self) -> int:
        """How many queries were embedded."""
        return self._query_calls

    @property
    def text_batches(self) -> list[int]:
        """The size of every batch of texts that was embedded."""
        return self._text_batches

    @property
    def texts_seen(self) -> list[str]:
        """Every text that was embedded, once for each time."""
        return self._texts_seen

    def vector(self, text: str) -> list[float]:
        words = text.lower().split() or [""]
        vector = sum((word_vector(word, self.dim) for word in words), np.zeros(self.dim))
        return (vector / np.linalg.norm(vector)).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        self._query_calls += 1
        return self.vector(self.query_prefix + query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._text_batches.append(len(texts))
        self._texts_seen.extend(texts)
        return [self.vector(text) for text in texts]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._get_text_embeddings(texts)


def tiny_dataset(
    n_documents: int = 12, queries_per_document: int = 2, seed: int = 0
) -> EmbeddingQAFinetuneDataset:
    """Return documents of random words, and queries that share two or three words with theirs."""
    rng = random.Random(seed)
    corpus, queries, relevant_docs = {}, {}, {}
    for i in range(n_documents):
        words = [rng.choice(TOPICS), *rng.sample(WORDS, 8)]
        corpus[f"d{i}"] = " ".join(words)
        for j in range(queries_per_document):
            queries[f"q{i}-{j}"] = f"ask {j} " + " ".join(rng.sample(words, 3))
            relevant_docs[f"q{i}-{j}"] = [f"d{i}"]
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant_docs)
