"""What makes two runs the same, so that a run is resumed only from its own checkpoints."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn


def fingerprint(**parts: Any) -> str:
    """Return a hash of what shapes a run: settings, losses, PEFT configurations.

    Of a module count the class, the plain values among its attributes, and its parts; of a model
    the class only, since its weights change.
    """
    return hashlib.sha256(json.dumps(_plain(parts), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, SentenceTransformer):
        return type(value).__qualname__
    if isinstance(value, nn.Module):
        own = {name: one for name, one in vars(value).items() if _is_setting(name, one)}
        return [type(value).__qualname__, _plain(own), _plain(dict(value.named_children()))]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    name = getattr(value, "__qualname__", type(value).__qualname__)
    code = getattr(value, "__code__", None)
    # Functions without a name of their own are told apart by what they do.
    return name if code is None else [name, code.co_code.hex(), list(code.co_names)]


def _is_setting(name: str, value: Any) -> bool:
    if name.startswith("_") or name == "training":
        return False
    return callable(value) or isinstance(value, bool | int | float | str | list | tuple)
