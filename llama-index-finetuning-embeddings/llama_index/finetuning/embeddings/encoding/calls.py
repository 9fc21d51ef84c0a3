"""The calls that an embedding model offers, beyond those of its base class."""

import sys
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.encoding.table import allocate

# Fields by which models tell their dimension, and those that only a model behind an API has.
_DIMENSION_FIELDS = ("dimensions", "embed_dim", "dim", "output_dimensionality")
_REMOTE_FIELDS = ("api_key", "api_base", "base_url", "api_url", "rate_limiter")
_REMOTE_ATTRIBUTES = {"_client", "_aclient", "_async_client"}
# The method of a Sentence Transformer, by its new and its old name.
_DIMENSION_METHODS = ("get_embedding_dimension", "get_sentence_embedding_dimension")
_BLOCK = 4096  # vectors


def model_behind(embed_model: BaseEmbedding, side: str) -> BaseEmbedding:
    """Return the model that embeds one side in the end.

    A wrapper that leaves a side to another model says so by a method ``model_for``.
    """
    while _does_no_more(embed_model, "model_for"):
        inner = embed_model.model_for(side)  # type: ignore[attr-defined]
        if inner is embed_model:
            break
        embed_model = inner
    return embed_model


def source_of(embed_model: BaseEmbedding, side: str) -> tuple[BaseEmbedding, list[Any]]:
    """Return the model that is asked for the vectors of a side, and what then changes them.

    A model whose vectors are those of another one, changed, says so by a method ``base_for``,
    and changes them by a method ``adapt``.

    Returns:
        The model, and what `adapted` is to pass its vectors through.
    """
    adapters: list[Any] = []
    while _does_no_more(embed_model := model_behind(embed_model, side), "base_for"):
        adapters.append(embed_model)
        embed_model = embed_model.base_for(side)  # type: ignore[attr-defined]
    return embed_model, adapters[::-1]


def _does_no_more(embed_model: BaseEmbedding, method: str) -> bool:
    """Tell whether a wrapper's calls do nothing beyond what a method of its class says.

    A class derived from it may do something of its own, and what stands in a wrapper's cache, or
    how often it may be called, its base does not know.
    """
    known_here = ("embeddings_cache", "rate_limiter")
    return method in vars(type(embed_model)) and all(
        getattr(embed_model, name, None) is None for name in known_here
    )


def adapted(vectors: NDArray[np.float32], adapters: list[Any], side: str) -> NDArray[np.float32]:
    """Pass vectors through what changes them, block by block, and leave them as they are."""
    for adapter in adapters:
        given = vectors
        for start in range(0, len(given), _BLOCK):
            block = adapter.adapt(given[start : start + _BLOCK], side)
            if vectors is given:
                vectors = allocate(len(given), block.shape[1])
            vectors[start : start + len(block)] = block
    return vectors


def embed_queries(embed_model: BaseEmbedding, queries: list[str]) -> list[list[float]]:
    """Embed queries in one call where the model can, otherwise one by one.

    LlamaIndex has a batch call for texts and none for queries. The models of this package have
    one, ``get_query_embedding_batch``; ``HuggingFaceEmbedding`` has a private one.
    """
    if _has_batch_call(embed_model):
        found: list[list[float]] = embed_model.get_query_embedding_batch(queries)  # type: ignore[attr-defined]
        return found
    if _embeds_queries_as_huggingface_does(embed_model):
        vectors: list[list[float]] = embed_model._embed(queries, prompt_name="query")  # type: ignore[attr-defined]
        return vectors
    return [embed_model.get_query_embedding(query) for query in queries]


def has_query_batches(embed_model: BaseEmbedding) -> bool:
    """Tell whether `embed_queries` takes one call for many queries, or one for each."""
    base = _base_of(embed_model)
    if base is not embed_model and not _has_batch_call(embed_model):
        return False
    return _has_batch_call(base) or _embeds_queries_as_huggingface_does(base)


def _has_batch_call(embed_model: BaseEmbedding) -> bool:
    """Tell whether a model has a batch call for queries that does what its call for one does."""
    for cls in type(embed_model).__mro__:
        if "get_query_embedding_batch" in vars(cls):
            return True
        if {"get_query_embedding", "_get_query_embedding"} & vars(cls).keys():
            return False
    return False


def _base_of(embed_model: BaseEmbedding) -> BaseEmbedding:
    """Return the model that an adapter stands behind, or the model itself."""
    while True:
        base = getattr(embed_model, "base_embed_model", None)
        if not isinstance(base, BaseEmbedding):
            return embed_model
        embed_model = base


def _embeds_queries_as_huggingface_does(embed_model: BaseEmbedding) -> bool:
    module = sys.modules.get("llama_index.embeddings.huggingface.base")
    if module is None or not isinstance(embed_model, module.HuggingFaceEmbedding):
        return False
    # A subclass may do something of its own with queries, which has to be asked for then.
    names = {"get_query_embedding", "_get_query_embedding", "_embed"}
    usual = set(module.HuggingFaceEmbedding.__mro__)
    return not any(names & vars(cls).keys() for cls in set(type(embed_model).__mro__) - usual)


def is_remote(embed_model: BaseEmbedding) -> bool:
    """Tell whether a model answers from behind an API, going by its fields or its base's."""
    for model in (embed_model, _base_of(embed_model)):
        if any(getattr(model, field, None) is not None for field in _REMOTE_FIELDS):
            return True
        if type(model).__private_attributes__.keys() & _REMOTE_ATTRIBUTES:
            return True
    return False


def module_dimension(module: Any) -> int | None:
    """Return the length of a Sentence Transformer's vectors, where it tells."""
    for method in _DIMENSION_METHODS:
        if hasattr(module, method):
            dimension = getattr(module, method)()
            return dimension if isinstance(dimension, int) else None
    return None


def stated_dimension(embed_model: BaseEmbedding) -> int | None:
    """Return the length of a model's vectors where it can be told without embedding anything."""
    inner: Any = getattr(embed_model, "_model", None)
    if any(hasattr(inner, method) for method in _DIMENSION_METHODS):
        return module_dimension(inner)
    for field in _DIMENSION_FIELDS:
        value = getattr(embed_model, field, None)
        if isinstance(value, int):
            return value
    return None
