"""Call a wrapped model with its rate limiter and its cache, which other calls would pass by."""

import hashlib
import re
from collections.abc import Iterator

from llama_index.core.base.embeddings.base import BaseEmbedding

Vector = list[float]
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def sources(embed_model: BaseEmbedding) -> Iterator[str]:
    """Yield the names and folders that a model, and those it stands on, are loaded from."""
    for name in ("model_name", "base_model_name", "adapter_path"):
        value = getattr(embed_model, name, None)
        if isinstance(value, str):
            yield value
    for name in ("base_embed_model", "query_embed_model", "text_embed_model"):
        inner = getattr(embed_model, name, None)
        if isinstance(inner, BaseEmbedding):
            yield from sources(inner)


def text_digest(embed_model: BaseEmbedding) -> str:
    """Hash a model as LlamaIndex's pipelines do, which know it by what it is written as.

    A model that stands before or behind others is written with its own fields alone.
    """
    own = getattr(embed_model, "text_digest", None)
    if isinstance(own, str):
        return own
    try:
        written = str(embed_model.to_dict())
    except Exception:  # a class of somebody's own may hold what can't be written
        written = f"{embed_model.class_name()} {embed_model.model_name}"
    return hashlib.sha256(_ADDRESS.sub("", written).encode(errors="replace")).hexdigest()


def embed_query(embed_model: BaseEmbedding, query: str) -> Vector:
    """Embed a query."""
    if embed_model.embeddings_cache is not None:
        return embed_model.get_query_embedding(query)  # the only call that looks there
    return _wait_for(embed_model)._get_query_embedding(query)


async def aembed_query(embed_model: BaseEmbedding, query: str) -> Vector:
    """Embed a query."""
    if embed_model.embeddings_cache is not None:
        return await embed_model.aget_query_embedding(query)
    return await (await _await_for(embed_model))._aget_query_embedding(query)


def embed_text(embed_model: BaseEmbedding, text: str) -> Vector:
    """Embed a text."""
    if embed_model.embeddings_cache is not None:
        return embed_texts(embed_model, [text])[0]
    return _wait_for(embed_model)._get_text_embedding(text)


async def aembed_text(embed_model: BaseEmbedding, text: str) -> Vector:
    """Embed a text."""
    if embed_model.embeddings_cache is not None:
        return (await aembed_texts(embed_model, [text]))[0]
    return await (await _await_for(embed_model))._aget_text_embedding(text)


def embed_texts(embed_model: BaseEmbedding, texts: list[str]) -> list[Vector]:
    """Embed a batch of texts."""
    model = _wait_for(embed_model)
    if model.embeddings_cache is not None:
        return model._get_text_embeddings_cached(texts)
    return model._get_text_embeddings(texts)


async def aembed_texts(embed_model: BaseEmbedding, texts: list[str]) -> list[Vector]:
    """Embed a batch of texts."""
    model = await _await_for(embed_model)
    if model.embeddings_cache is not None:
        return await model._aget_text_embeddings_cached(texts)
    return await model._aget_text_embeddings(texts)


def _wait_for(embed_model: BaseEmbedding) -> BaseEmbedding:
    """Return the model once its rate limiter, if it has one, allows one more request."""
    limiter = getattr(embed_model, "rate_limiter", None)
    if limiter is not None:
        limiter.acquire()
    return embed_model


async def _await_for(embed_model: BaseEmbedding) -> BaseEmbedding:
    """Return the model once its rate limiter, if it has one, allows one more request."""
    limiter = getattr(embed_model, "rate_limiter", None)
    if limiter is not None:
        await limiter.async_acquire()
    return embed_model
