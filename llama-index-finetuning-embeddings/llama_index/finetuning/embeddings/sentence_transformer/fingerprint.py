"""What makes two runs the same, so that a run is resumed only from its own checkpoints."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

_DEEPEST = 5  # functions that hold functions
# What a run that is short of memory may go on with in another way.
_FOR_MEMORY = ("keep_activations_tokens", "micro_batch_", "mini_batch_")


def fingerprint(**parts: Any) -> str:
    """Return a hash of what shapes a run: settings, losses, PEFT configurations.

    Of a module count the class, the plain values among its attributes, and its parts; of a model
    the class only, since its weights change.
    """
    return hashlib.sha256(json.dumps(_plain(parts), sort_keys=True).encode()).hexdigest()


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, SentenceTransformer):
        return type(value).__qualname__
    if isinstance(value, nn.Module):
        own = {name: one for name, one in vars(value).items() if _is_setting(name, one)}
        return [
            type(value).__qualname__,
            *(_plain(one, depth) for one in (own, dict(value.named_children()))),
        ]
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(one, depth) for one in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict(), depth)
    if isinstance(value, functools.partial):
        return _plain([value.func, value.args, value.keywords], depth + 1)
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), _plain(value.co_consts, depth)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if depth > _DEEPEST or not isinstance(value, FunctionType):
        return name
    # Those without a name of their own are told apart by what they do.
    parts: list[Any] = [value.__code__, value.__defaults__, value.__kwdefaults__]
    for cell in value.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled
            parts.append(cell.cell_contents)
    return [name, _plain(parts, depth + 1)]


def _is_setting(name: str, value: Any) -> bool:
    if name.startswith(("_", *_FOR_MEMORY)) or name == "training":
        return False
    return callable(value) or isinstance(value, bool | int | float | str | list | tuple)
