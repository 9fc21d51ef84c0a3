"""What makes two embedding models the same for a cache of vectors."""

import contextlib
import copyreg
import enum
import functools
import hashlib
import json
import numbers
import os
import re
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Set
from datetime import date, timedelta
from typing import Any, Literal

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
# Of these, numbers and moments alone.
_TALLIES = re.compile(
    r"(?:^|_)(?:attempts|cost|created|deadline|elapsed|expires|failures|fd|handle|last|left|next"
    r"|pid|remaining|requests|spent|started)(?:_|$)",
    re.IGNORECASE,
)
_HANDLES = re.compile(
    r"(?:^|_)(?:a?client|buffer|cached?|executor|history|lock|log|logger|loop|memo|pending|pool"
    r"|queue|record|semaphore|session|thread|tokenizer)s?(?:_|$)",
    re.IGNORECASE,
)
# Containers that a caller fills once.
_SETTINGS = re.compile(
    r"(?:^|_)(?:args|bounds|cfg|coefficients|conf|config|configuration|cut|dims|dimensions|factors"
    r"|kwargs|layers|options|opts|param(?:eter)?s|scales?|settings|slice|span|w|weights)(?:_|$)",
    re.IGNORECASE,
)
# Types whose objects are a process's own, by module and name.
_PROCESS = re.compile(
    r"(?:_?(?:asyncio|contextvars|queue|random|socket|ssl|threading|thread|weakref|weakrefset)"
    r"|aiohttp|concurrent|grpc|http|httpcore|httpx|logging|multiprocessing|numpy\.random|requests"
    r"|selectors|sqlite3|subprocess|urllib3|uuid"
    r"|torch\._C\.Generator)(?:\.|$)"
)
_PLAIN = (bool, int, float, str)
_MEASURES = (numbers.Number, date, timedelta, tuple)
# The prompts of one side, by the names that Sentence Transformers and LlamaIndex give them.
_PROMPTS = {"query": {"query"}, "text": {"text", "document"}}
_OTHER = {"query": "text", "text": "query"}
# How a value is held: by an object, given by a caller for good, or by a function.
_Origin = Literal["own", "given", "held"]
_DEEPEST = 8
_SAMPLED_WEIGHTS = 4096
_LONGEST_TUPLE = 32
_LONGEST_REPR = 1000


def identity(embed_model: BaseEmbedding, side: str | None = None) -> str:
    """Return a hash that changes when the vectors of a model would.

    It covers the class and the settings (without keys, time limits, batch size and the like):
    public ones of any kind, and private ones that are a text, a number, an array, an object
    or a mapping to texts, and other containers whose names say that they are settings
    (``_weights``); functions with their code, which another version of Python compiles anew, and
    the values that they hold on to; and, for models in memory, the prompts, each module's settings
    and a sample of every weight tensor: a model trained further, or another one saved under the
    same path, is another model. Wrapped objects are followed in the same way. What holds a
    process's state by its name or its class (a client, a lock, a count of calls) is left out; of
    an object that a function holds on to the plain values count. In doubt a value counts: to pay
    for a text again is better than another model's vector.

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
        # Each kept alive while this runs, so that no other object takes its id.
        self._seen: dict[tuple[int, _Origin], tuple[object, str]] = {}

    def of(self, value: Any, depth: int = 0, origin: _Origin = "own") -> Any:
        """Describe a value: one that is plain by itself, any other by a hash or its class."""
        try:
            if value is None or isinstance(value, _PLAIN):
                return value
            for kind, simpler in _SIMPLER.items():
                if isinstance(value, kind):
                    return self.of(simpler(value), depth, origin)
            name = _name(type(value))
            if depth > _DEEPEST or _has(value, "get_secret_value"):
                return name
            key = id(value), origin
            if key not in self._seen:
                self._seen[key] = value, name  # what holds itself finds this
                described = json.dumps(self._object(value, name, depth, origin), sort_keys=True)
                self._seen[key] = value, hashlib.sha256(described.encode("utf-8")).hexdigest()
            return self._seen[key][1]
        except Exception:  # from the methods of a foreign object
            if isinstance(value, BaseEmbedding):
                raise
            return _name(type(value))

    def _object(self, value: Any, name: str, depth: int, origin: _Origin) -> Any:
        if isinstance(value, np.ndarray) or _has(value, "detach"):
            return _array(value)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return [name, *(self.of(one, depth + 1, "given") for one in parts)]
        if not _is_model(value) and any(
            _PROCESS.match(_name(kind)) for kind in type(value).__mro__
        ):
            return name
        inner: _Origin = "given" if origin == "given" else "own"
        if isinstance(value, Mapping):
            named = {self._key(key, depth): one for key, one in value.items()}
            return {
                key: self.of(one, depth + 1, inner)
                for key, one in named.items()
                if _counts(key, one, is_given=inner == "given" and isinstance(one, _PLAIN))
            }
        if isinstance(value, list | tuple | deque):
            return [self.of(one, depth + 1, inner) for one in value]
        if isinstance(value, Set):
            return sorted(json.dumps(self.of(one, depth + 1), sort_keys=True) for one in value)
        if _has(value, "state_dict"):
            return [name, self._module(value)]
        if callable(value) and hasattr(value, "__qualname__"):
            return self._function(value, depth)
        fields = _fields(value)
        if not fields:
            return [name, self._made_of(value, depth)]
        return [name, self._shaping(value, fields, depth, is_held=origin == "held")]

    def _key(self, key: Any, depth: int) -> str:
        """Return a text for a mapping's key."""
        return str(key) if isinstance(key, _PLAIN) else json.dumps(self.of(key, depth + 1))

    def _made_of(self, value: Any, depth: int) -> Any:
        """Describe an object without fields (a pattern, a slice) by what makes another like it."""
        if isinstance(value, Iterator):  # which moves on
            return None
        with contextlib.suppress(Exception):  # not all can be made anew
            reduce = copyreg.dispatch_table.get(type(value))
            made = value.__reduce_ex__(2) if reduce is None else reduce(value)
            if isinstance(made, str):
                return made
            if not any(made[2:]):  # no state beyond these
                return self.of(made[1], depth + 1)
        shown = repr(value)
        return None if " at 0x" in shown or len(shown) > _LONGEST_REPR else shown

    def _function(self, value: Any, depth: int) -> list[Any]:
        """Describe a function: where it is from, its code, and the values that it holds on to."""
        code = getattr(value, "__code__", None)
        held = {
            name: self.of(one, depth + 1, origin)
            for name, one, origin in _held_by(value, code)
            if _counts(name, one, is_given=origin == "given" and isinstance(one, _PLAIN))
            and not _is_empty(one)
        }
        return [_name(value), None if code is None else _code(code), held]

    def _shaping(
        self, value: Any, fields: Mapping[str, Any], depth: int, *, is_held: bool
    ) -> dict[str, Any]:
        """Describe the fields of an object that shape what it computes.

        Of one that a function holds on to, only what is simple: it may be a client.
        """
        is_model = isinstance(value, BaseEmbedding)
        shaping = {}
        for name, one in fields.items():
            hidden = name.startswith("_")
            if hidden and (one is None or _may_grow(name, one)):
                continue  # made when it is needed, or grown from call to call
            if name in {f"{side}_instruction" for side in self._others}:
                continue
            if is_held and not is_model and not _is_simple(name, one):
                continue
            is_given = is_model and not hidden
            if _counts(name, one, is_given=is_given):
                origin: _Origin = "given" if is_given or _SETTINGS.search(name) else "own"
                shaping[name] = self.of(one, depth + 1, origin)
        return shaping

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
            parts.append([name, _name(type(part)), part.extra_repr()])
            with contextlib.suppress(Exception):  # some classes have none, some raise
                parts.append(self.of(part.get_config_dict()))
        weights = [[name, _array(one, sampled=True)] for name, one in module.state_dict().items()]
        return [default, prompts, settings, parts, weights]


def _name(thing: Any) -> str:
    """Name a class or a function, with its module."""
    module = getattr(thing, "__module__", None)
    # The main module is called so in the processes that multiprocessing starts.
    return f"{'__main__' if module == '__mp_main__' else module}.{thing.__qualname__}"


def _has(value: Any, method: str) -> bool:
    """Tell whether an object has a method; some raise errors of their own when asked."""
    try:
        return callable(getattr(value, method, None))
    except Exception:
        return False


def _is_model(value: Any) -> bool:
    return isinstance(value, BaseEmbedding) or _has(value, "state_dict")


def _fields(value: Any) -> dict[str, Any]:
    """Return what an object holds, by name."""
    fields = getattr(type(value), "model_fields", None)
    if fields is not None:
        beyond = [getattr(value, f"__pydantic_{kind}__", None) for kind in ("extra", "private")]
        own = {name: getattr(value, name) for name in fields}
        return {**own, **(beyond[0] or {}), **(beyond[1] or {})}
    held = {}
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            is_mangled = name.startswith("__") and not name.endswith("__")
            attribute = f"_{kind.__name__.lstrip('_')}{name}" if is_mangled else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, attribute):
                held[name] = getattr(value, attribute)
    return {**held, **getattr(value, "__dict__", {})}


def _held_by(
    function: Any, code: types.CodeType | None
) -> Iterator[tuple[str, Any, Literal["given", "held"]]]:
    """Yield the values that a function holds on to, with their names and where they are from."""
    for name in ("__self__", "__wrapped__"):
        yield name, getattr(function, name, None), "held"
    defaults = dict(getattr(function, "__kwdefaults__", None) or {})
    if code is not None:
        values = getattr(function, "__defaults__", None) or ()
        arguments = code.co_varnames[: code.co_argcount]
        defaults.update(zip(arguments[::-1], values[::-1], strict=False))
        cells = getattr(function, "__closure__", None) or ()
        for name, cell in zip(code.co_freevars, cells, strict=False):
            with contextlib.suppress(ValueError):  # not filled yet
                yield name, cell.cell_contents, "held"
    for name, value in defaults.items():
        yield name, value, "given"


def _is_empty(value: Any) -> bool:
    """Tell whether a container is yet to be filled."""
    return isinstance(value, Mapping | MutableSequence | Set) and not value


def _may_grow(name: str, value: Any) -> bool:
    """Tell whether a private container may be a record of calls: neither texts nor settings."""
    if not isinstance(value, Mapping | MutableSequence | Set | tuple):
        return False
    held = value.values() if isinstance(value, Mapping) else value
    if not value:
        return True
    is_settings = _SETTINGS.search(name) is not None and not _TALLIES.search(name)
    of_texts = type(value) is dict and all(isinstance(one, str | bool) for one in held)
    return not (is_settings or of_texts or all(_is_model(one) for one in held))


def _is_plain(value: Any) -> bool:
    """Tell whether a value is plain, or a short tuple of such."""
    if isinstance(value, tuple):
        return len(value) <= _LONGEST_TUPLE and all(_is_plain(one) for one in value)
    return value is None or isinstance(value, _PLAIN)


def _is_simple(name: str, value: Any) -> bool:
    """Tell whether a value counts of an object that may be a client: plain, an array, a model."""
    if isinstance(value, tuple(_SIMPLER)):
        return True
    known = isinstance(value, np.ndarray) or _has(value, "detach") or _is_model(value)
    is_settings = isinstance(value, Mapping | list | Set) and _SETTINGS.search(name) is not None
    return known or is_settings or _is_plain(value)


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
    type: _name,
    types.ModuleType: lambda value: value.__name__,
}


def _counts(name: str, value: Any, *, is_given: bool = False) -> bool:
    """Tell whether what stands under a name may shape a vector; what a caller gave, may."""
    if name.strip("_") in _IRRELEVANT or is_secret_name(name):
        return False
    if is_given or _is_model(value):
        return True
    is_measure = isinstance(value, _MEASURES) and not isinstance(value, bool)
    if _RECORDS.search(name) or (is_measure and _TALLIES.search(name)):
        return False
    return isinstance(value, _PLAIN) or not _HANDLES.search(name)


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
