"""What makes two embedding models the same for a cache of vectors."""

import contextlib
import enum
import functools
import hashlib
import json
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.redaction import is_secret_name

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
    "is_unit",
    "max_retries",
    "num_workers",
    "parallel_process",
    "rate_limiter",
    "reuse_client",
    "show_progress_bar",
    "target_device",
    "target_devices",
    "text_digest",
    "timeout",
    "token",
}
# Words in the names of what changes from call to call, and of objects that a process holds.
_RECORDS = re.compile(
    r"(?:^|_)(?:calls|count(?:er|s)?|hits|misses|seen|stats|time(?:stamp)?|total|usage|used|uuid"
    r"|warn(?:ed|ings?))(?:_|$)",
    re.IGNORECASE,
)
# Of these, numbers alone.
_TALLIES = re.compile(r"(?:^|_)(?:attempts|cost|failures|requests|spent)(?:_|$)", re.IGNORECASE)
_HANDLES = re.compile(
    r"(?:^|_)(?:a?client|cached?|executor|lock|logger|loop|pool|semaphore|session|thread|tokenizer)"
    r"(?:_|$)",
    re.IGNORECASE,
)
_PLAIN = (bool, int, float, str)
# The prompts of one side, by the names that Sentence Transformers and LlamaIndex give them.
_PROMPTS = {"query": {"query"}, "text": {"text", "document"}}
_OTHER = {"query": "text", "text": "query"}
_DEEPEST = 8
_SAMPLED_WEIGHTS = 4096


def identity(embed_model: BaseEmbedding, side: str | None = None) -> str:
    """Return a hash that changes when the vectors of a model would.

    It covers the class and the settings (without keys, time limits, batch size and the like):
    public ones of any kind, and private ones that are a text, a number, an array, an object or a
    mapping to texts; functions with their code, which another version of Python compiles anew, and
    the values that they hold on to; and, for models in memory, the prompts, each module's settings
    and a sample of every weight tensor: a model trained further, or another one saved under the
    same path, is another model. Wrapped objects are followed in the same way. What holds a
    process's state by its name (a client, a lock, a count of calls) is left out.

    Args:
        embed_model: The model.
        side: ``"query"`` or ``"text"`` leaves out the other side's prompt; None holds both.
    """
    described = _Description(side).of(embed_model)
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode("utf-8")).hexdigest()


class _Description:
    """JSON values that stand for a model, the same in every process.

    Args:
        side: Whose prompts count; None: both sides'.
    """

    def __init__(self, side: str | None) -> None:
        self._others = _PROMPTS[_OTHER[side]] if side else set()
        # Kept alive while this runs, so that no other object takes an id.
        self._seen: dict[int, object] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, _PLAIN):
            return value
        for kind, simpler in _SIMPLER.items():
            if isinstance(value, kind):
                return self.of(simpler(value), depth)
        name = type(value).__qualname__
        secret = hasattr(value, "get_secret_value")
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, type) or secret or depth > _DEEPEST or id(value) in self._seen:
            return name
        if isinstance(value, np.ndarray) or callable(getattr(value, "detach", None)):
            return _array(value)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return [name, *(self.of(one, depth + 1) for one in parts)]
        if isinstance(value, Mapping):
            kept = {str(key): one for key, one in value.items() if isinstance(key, _PLAIN)}
            return {key: self.of(one, depth + 1) for key, one in kept.items() if _counts(key, one)}
        if isinstance(value, list | tuple):
            return [self.of(one, depth + 1) for one in value]
        if isinstance(value, Set):
            return sorted(json.dumps(self.of(one, depth + 1), sort_keys=True) for one in value)
        self._seen[id(value)] = value
        if callable(getattr(value, "state_dict", None)):
            return [name, self._module(value)]
        if callable(value) and hasattr(value, "__qualname__"):
            return self._function(value, depth)
        return [name, {key: self.of(one, depth + 1) for key, one in self._settings(value)}]

    def _function(self, value: Any, depth: int) -> list[Any]:
        """Describe a function: where it is from, its code, and the values that it holds on to."""
        code = getattr(value, "__code__", None)
        held = {
            name: getattr(value, name, None)
            for name in ("__self__", "__defaults__", "__kwdefaults__", "__wrapped__")
        }
        names = () if code is None else code.co_freevars
        for name, cell in zip(names, getattr(value, "__closure__", None) or (), strict=False):
            with contextlib.suppress(ValueError):  # not filled yet
                if _counts(name, cell.cell_contents) and not _is_grown(cell.cell_contents):
                    held[name] = cell.cell_contents
        return [
            getattr(value, "__module__", None),
            value.__qualname__,
            None if code is None else _code(code),
            {name: self._held(one, depth + 1) for name, one in held.items()},
        ]

    def _held(self, value: Any, depth: int) -> Any:
        """Describe what a function holds: of an object its texts and flags alone.

        A client or a session changes with every call.
        """
        kinds = (BaseEmbedding, type, types.ModuleType, functools.partial)
        known = isinstance(value, kinds) or hasattr(value, "__qualname__")
        if known or not hasattr(value, "__dict__") or callable(getattr(value, "state_dict", None)):
            return self.of(value, depth)
        texts = {
            k: v for k, v in vars(value).items() if isinstance(v, str | bool) and _counts(k, v)
        }
        return [type(value).__qualname__, texts]

    def _settings(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the fields of an object that shape what it computes."""
        fields = getattr(type(value), "model_fields", None)
        own = getattr(value, "__dict__", {})
        if fields is not None:
            private = getattr(value, "__pydantic_private__", None) or {}
            own = {**{name: getattr(value, name) for name in fields}, **private}
        public_field = isinstance(value, BaseEmbedding)
        for name, one in own.items():
            hidden = name.startswith("_")
            if hidden and (one is None or isinstance(one, tuple) or _is_grown(one)):
                continue  # made when it is needed, or grown from call to call
            if name in {f"{side}_instruction" for side in self._others}:
                continue
            if _counts(name, one, is_field=public_field and not hidden):
                yield name, one

    def _module(self, module: Any) -> list[Any]:
        """Describe a module in memory: prompts, the settings of its parts, and its weights."""
        default = getattr(module, "default_prompt_name", None)
        prompts = {
            name: prompt
            for name, prompt in (getattr(module, "prompts", None) or {}).items()
            if name not in self._others or name == default
        }
        names = ("max_seq_length", "truncate_dim")
        settings = [getattr(module, name, None) for name in names]
        parts = []
        for name, part in module.named_modules() if hasattr(module, "named_modules") else ():
            parts.append([name, type(part).__qualname__, part.extra_repr()])
            with contextlib.suppress(Exception):  # some classes have none, some raise
                parts.append(self.of(part.get_config_dict()))
        weights = [[name, _array(one, sampled=True)] for name, one in module.state_dict().items()]
        return [default, prompts, settings, parts, weights]


def _is_grown(value: Any) -> bool:
    """Tell whether a private container may be a record of calls; one of texts is none."""
    if type(value) is dict:
        return not (value and all(isinstance(one, str | bool) for one in value.values()))
    return isinstance(value, Mapping | list | Set)


def _code(code: types.CodeType) -> list[Any]:
    """Describe a function's code, that of the functions in it included."""
    constants = [
        _code(one)
        if isinstance(one, types.CodeType)
        # Sets are in another order in every process.
        else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    return [hashlib.sha256(code.co_code).hexdigest(), list(code.co_names), constants]


_SIMPLER: dict[Any, Callable[[Any], Any]] = {
    enum.Enum: lambda value: value.value,
    np.generic: lambda value: value.item(),
    os.PathLike: os.fspath,
    (bytes, complex): repr,
}


def _counts(name: str, value: Any, *, is_field: bool = False) -> bool:
    """Tell whether what stands under a name may shape a vector."""
    if name.strip("_") in _IRRELEVANT or is_secret_name(name):
        return False
    if is_field or callable(getattr(value, "state_dict", None)):
        return True
    if isinstance(value, _PLAIN):
        tally = not isinstance(value, str | bool) and _TALLIES.search(name) is not None
        return not tally and _RECORDS.search(name) is None
    return isinstance(value, BaseEmbedding) or not (_RECORDS.search(name) or _HANDLES.search(name))


def _array(values: Any, *, sampled: bool = False) -> Any:
    """Describe an array or a tensor: its shape, its type, and a hash of its values."""
    if not hasattr(values, "reshape"):
        return type(values).__qualname__  # the settings of a quantised module
    flat = values.reshape(-1)
    if sampled:
        flat = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)]
    if not isinstance(flat, np.ndarray):
        flat = flat.detach().cpu().double().numpy()
    if flat.dtype.hasobject:
        return [type(values).__qualname__, list(values.shape)]
    digest = hashlib.sha256(np.ascontiguousarray(flat).tobytes()).hexdigest()
    return [list(values.shape), str(values.dtype), digest]
