"""What makes two embedding models the same for a cache of vectors."""

import hashlib
import json
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

# Settings that change how a vector is fetched, never what it is.
_IRRELEVANT = {
    "api_key",
    "api_version",
    "cache_folder",
    "callback_manager",
    "default_headers",
    "device",
    "embed_batch_size",
    "embeddings_cache",
    "headers",
    "max_retries",
    "num_workers",
    "rate_limiter",
    "reuse_client",
    "show_progress_bar",
    "timeout",
    "token",
}
_SAMPLED_WEIGHTS = 4096


def identity(embed_model: BaseEmbedding) -> str:
    """Return a hash that changes when the vectors of a model would.

    It covers the class, the public settings (without keys, time limits, batch size and the
    like), the private texts such as the name of an engine, and, for models in memory, the
    prompts, the maximum length and a sample of every weight tensor: a model trained further, or
    another one saved under the same path, is another model. Wrapped models are followed, in
    public fields also through lists and dictionaries.
    """
    digest = hashlib.sha256()
    _add_model(digest, embed_model)
    return digest.hexdigest()


def _add_model(digest: Any, embed_model: BaseEmbedding) -> None:
    settings = {
        name: getattr(embed_model, name)
        for name in type(embed_model).model_fields
        if name not in _IRRELEVANT
    }
    _add_json(digest, [type(embed_model).__qualname__, settings])
    for name, value in sorted((embed_model.__pydantic_private__ or {}).items()):
        if isinstance(value, BaseEmbedding):
            _add_json(digest, name)
            _add_model(digest, value)
        elif callable(getattr(value, "state_dict", None)):
            _add_json(digest, name)
            _add_weights(digest, value)
        elif isinstance(value, str) and name.strip("_") not in _IRRELEVANT:
            _add_json(digest, [name, value])


def _add_weights(digest: Any, module: Any) -> None:
    names = ("prompts", "default_prompt_name", "max_seq_length", "truncate_dim")
    _add_json(digest, [getattr(module, name, None) for name in names])
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        stride = max(1, len(flat) // _SAMPLED_WEIGHTS)
        _add_json(digest, [name, list(tensor.shape), str(tensor.dtype)])
        sample = flat[::stride].cpu().double().numpy()
        digest.update(np.ascontiguousarray(sample).tobytes())


def _add_json(digest: Any, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, default=_in_words)
    digest.update(text.encode("utf-8") + b"\0")


def _in_words(value: object) -> str:
    """Return what stands in a digest for a value that JSON has no form for."""
    if isinstance(value, BaseEmbedding):
        return identity(value)
    if not isinstance(value, type) and callable(getattr(value, "state_dict", None)):
        digest = hashlib.sha256()
        _add_weights(digest, value)
        return digest.hexdigest()
    return type(value).__qualname__
