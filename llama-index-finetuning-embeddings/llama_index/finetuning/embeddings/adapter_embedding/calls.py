"""Call a wrapped model with its rate limiter, its cache and its own public calls."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.errors import ConfigurationError

What = Literal["query", "text", "texts"]
Vector = list[float]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PUBLIC = {"query": "query_embedding", "text": "text_embedding", "texts": "text_embedding_batch"}
_INNER = {**_PUBLIC, "texts": "text_embeddings"}


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


def embed(embed_model: BaseEmbedding, what: What, texts: list[str]) -> list[Vector]:
    """Embed through a model as its own public call would, without a second event of LlamaIndex.

    Where the model's class has a public call of its own, which may put words before what it is
    given, that one is called, with its events.

    Args:
        embed_model: The model.
        what: One query, one text, or a batch of texts.
        texts: A list of one, or of the batch.
    """
    call = _public_call(embed_model, what, "")
    if call is None:
        await_turn(embed_model)
        if embed_model.embeddings_cache is not None:
            return embed_model._get_text_embeddings_cached(texts)
        call = getattr(embed_model, f"_get_{_INNER[what]}")
    found: list[Vector] = call(texts) if what == "texts" else [call(texts[0])]
    return found


async def aembed(embed_model: BaseEmbedding, what: What, texts: list[str]) -> list[Vector]:
    """Do the same as `embed` by the asynchronous calls."""
    call = _public_call(embed_model, what, "a")
    if call is None and _public_call(embed_model, what, "") is not None:
        # What a class puts before a text, it puts there for every way of asking.
        return await asyncio.to_thread(embed, embed_model, what, texts)
    if call is None:
        limiter = getattr(embed_model, "rate_limiter", None)
        if limiter is not None:
            await limiter.async_acquire()
        if embed_model.embeddings_cache is not None:
            return await embed_model._aget_text_embeddings_cached(texts)
        call = getattr(embed_model, f"_aget_{_INNER[what]}")
    found: list[Vector] = await call(texts) if what == "texts" else [await call(texts[0])]
    return found


def _public_call(embed_model: BaseEmbedding, what: What, prefix: str) -> Any:
    """Return the public call where no inner one does the same, or None."""
    name = f"{prefix}get_{_PUBLIC[what]}"
    owner = next(cls for cls in type(embed_model).__mro__ if name in vars(cls))
    # Of queries, only the public call looks into LlamaIndex's cache.
    looks_up = what == "query" and embed_model.embeddings_cache is not None
    return getattr(embed_model, name) if owner is not BaseEmbedding or looks_up else None


def require_models(told: dict[str, Any], given: dict[str, Any], names: dict[str, str]) -> None:
    """Make sure that the models which ``to_dict`` only names are given to ``from_dict``.

    Args:
        told: What ``to_dict`` returned.
        given: The arguments beside it.
        names: The models' arguments, each with the field that names its model.

    Raises:
        ConfigurationError: A model is not given.
    """
    for name, field in names.items():
        if name not in given:
            raise ConfigurationError(
                f"{name!r} must be given beside what 'to_dict' returned, which only names it "
                f"(got {told.get(field)!r} there)."
            )


def fill_missing(model: BaseEmbedding) -> None:
    """Give fields their defaults that LlamaIndex left out of a pickle, as it does what won't go in.

    Its own models get them from their constructors, which take every field.
    """
    for name, field in type(model).model_fields.items():
        if name not in vars(model):
            vars(model)[name] = field.get_default(call_default_factory=True)


def await_turn(model: BaseEmbedding) -> None:
    """Wait until a model's rate limiter lets a call through, as LlamaIndex does in its calls."""
    limiter = getattr(model, "rate_limiter", None)
    if limiter is not None:
        limiter.acquire()
