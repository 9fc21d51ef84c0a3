"""What makes two embedding models the same for a cache of vectors."""

import contextlib
import copyreg
import enum
import functools
import hashlib
import json
import os
import re
import stat
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.encoding.code import (
    Origin,
    code_of,
    is_library,
    name_of,
    used_by,
    written_in,
)
from llama_index.finetuning.embeddings.encoding.what_counts import (
    PLAIN,
    counts,
    has_method,
    is_model,
    is_record,
    is_settings,
)

# Types whose objects are a process's own, by module and name.
_PROCESS = re.compile(
    r"(?:_?(?:asyncio|contextvars|queue|random|socket|ssl|threading|thread|weakref|weakrefset)"
    r"|aioboto3|aiobotocore|aiohttp|boto3|botocore|concurrent|grpc|http|httpcore|httpx|logging"
    r"|multiprocessing|numpy\.random|requests|selectors|sqlite3|subprocess|tempfile|tenacity"
    r"|tokenizers|torch\._C\.Generator|transformers\.tokenization\w*|urllib3)(?:\.|$)"
)
# The prompts of one side, by the names that Sentence Transformers and LlamaIndex give them.
_PROMPTS = {"query": {"query"}, "text": {"text", "document"}}
_OTHER = {"query": "text", "text": "query"}
_DEEPEST = 8
_SAMPLED_WEIGHTS = 4096
_LONGEST_REPR = 1000


def identity(embed_model: BaseEmbedding, side: str | None = None) -> str:
    """Return a hash that changes when the vectors of a model would.

    It covers the model's class and settings, public and private ones, and those of every object
    that it holds: functions with their code, the constants that they name and the values that
    they hold on to; paths of files with their size and their time; modules in memory with their
    prompts, the settings of each part and a sample of every weight, so that a model trained
    further, or another one saved under the same path, is another model. Of an embedding model or
    a module whose class is no library's, methods and constants count too; another version of
    Python compiles them anew.

    What changes from call to call, or only says how vectors are fetched, is left out: keys, time
    limits, batch sizes, what a process holds by its name or its class (a client, a lock, a
    tokenizer), counts and moments by their names, what a library's module hides, and private
    containers of numbers or vectors that can grow, unless their names say that they are settings
    (``_weights``). In doubt a value counts: to pay for a text again is
    better than another model's vector.

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
        self._seen: dict[tuple[int, Origin], tuple[object, str]] = {}

    def of(self, value: Any, depth: int = 0, origin: Origin = "own") -> Any:
        """Describe a value: one that is plain by itself, any other by a hash or its class."""
        try:
            if value is None or isinstance(value, PLAIN):
                return value
            for kind, simpler in _SIMPLER.items():
                if isinstance(value, kind):
                    return self.of(simpler(value), depth, origin)
            name = name_of(type(value))
            if depth > _DEEPEST or has_method(value, "get_secret_value"):
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
            return name_of(type(value))

    def _object(self, value: Any, name: str, depth: int, origin: Origin) -> Any:
        if isinstance(value, np.ndarray) or has_method(value, "detach"):
            return _array(value)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return [name, *(self.of(one, depth + 1, "given") for one in parts)]
        if not is_model(value) and any(
            _PROCESS.match(name_of(kind)) for kind in type(value).__mro__
        ):
            return name
        if isinstance(value, Mapping):
            named = {self._key(key, depth): one for key, one in value.items()}
            return {
                key: self.of(one, depth + 1, origin)
                for key, one in named.items()
                if counts(key, one, is_given=origin == "given" and isinstance(one, PLAIN))
            }
        if isinstance(value, list | tuple | deque):
            return [self.of(one, depth + 1, origin) for one in value]
        if isinstance(value, Set):
            return sorted(json.dumps(self.of(one, depth + 1), sort_keys=True) for one in value)
        if has_method(value, "state_dict"):
            return [name, self._module(value, depth)]
        if callable(value) and hasattr(value, "__qualname__"):
            return self._function(value, depth)
        fields = _fields(value)
        if not fields:
            return [name, self._made_of(value, depth)]
        written = written_in(type(value)) if isinstance(value, BaseEmbedding) else ()
        return [name, self._shaping(value, fields, depth), self.of([*written], depth)]

    def _key(self, key: Any, depth: int) -> str:
        """Return a text for a mapping's key."""
        return str(key) if isinstance(key, PLAIN) else json.dumps(self.of(key, depth + 1))

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
        """Describe a function: where it is from, its code, and the values that it uses."""
        code = getattr(value, "__code__", None)
        used = {
            name: self.of(one, depth + 1, origin)
            for name, one, origin in used_by(value, code)
            if counts(name, one, is_given=origin == "given" and isinstance(one, PLAIN))
        }
        return [name_of(value), None if code is None else code_of(code), used]

    def _shaping(self, value: Any, fields: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Describe the fields of an object that shape what it computes."""
        shaping = {}
        for name, one in fields.items():
            hidden = name.startswith("_")
            if hidden and (one is None or is_record(name, one)):
                continue  # made when it is needed, or grown from call to call
            if name in {f"{side}_instruction" for side in self._others}:
                continue
            is_given = isinstance(value, BaseEmbedding) and not hidden
            if counts(name, one, is_given=is_given):
                origin: Origin = "given" if is_given or is_settings(name) else "own"
                shaping[name] = self.of(one, depth + 1, origin)
        return shaping

    def _module(self, module: Any, depth: int) -> list[Any]:
        """Describe a module in memory: prompts, the settings of its parts, and its weights."""
        prompts = getattr(module, "prompts", None)
        if isinstance(prompts, Mapping):
            default = getattr(module, "default_prompt_name", None)
            others = self._others - {default}
            prompts = {name: prompt for name, prompt in prompts.items() if name not in others}
        described = [self.of(prompts, depth + 1), getattr(module, "max_seq_length", None)]
        for name, part in module.named_modules() if has_method(module, "named_modules") else ():
            fields = _part_fields(part)
            if part is module:
                fields.pop("prompts", None)
            described += [name, name_of(type(part)), self._shaping(part, fields, depth)]
            described.append(self.of([*written_in(type(part))], depth + 1))
            with contextlib.suppress(Exception):  # some classes have none, some raise
                described.append(self.of(part.get_config_dict(), depth + 1))
        with contextlib.suppress(Exception):  # of a model whose weights are in a file of its own
            for name, weights in module.state_dict().items():
                described.append([name, _array(weights, sampled=True)])
        return described


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


def _part_fields(part: Any) -> dict[str, Any]:
    """Return what a module of torch holds besides its weights and its own parts."""
    import torch

    beside = vars(torch.nn.Module())
    public = is_library(type(part))  # what a library hides, it may change from call to call
    return {
        name: one
        for name, one in vars(part).items()
        if name not in beside and not (public and name.startswith("_"))
    }


def _file(path: "os.PathLike[Any]") -> Any:
    """Describe a path, and the file that it may lead to by its size and its time."""
    text = os.fspath(path)
    with contextlib.suppress(OSError, TypeError, ValueError):
        found = Path(text).stat()
        if stat.S_ISREG(found.st_mode):
            return [text, found.st_size, found.st_mtime_ns]
    return text


_SIMPLER: dict[Any, Callable[[Any], Any]] = {
    enum.Enum: lambda value: value.value,
    np.generic: lambda value: value.item(),
    os.PathLike: _file,
    (bytes, complex): repr,
    uuid.UUID: str,
    type: name_of,
    types.ModuleType: lambda value: value.__name__,
}


def _array(values: Any, *, sampled: bool = False) -> list[str]:
    """Describe an array or a tensor: its shape, its type, and a hash of its values."""
    described = [str(getattr(values, name, None)) for name in ("shape", "dtype")]
    try:
        flat = values.reshape(-1)
        if sampled:
            flat = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)]
        if not isinstance(flat, np.ndarray):
            flat = flat.detach().cpu().double().numpy()
    except Exception:  # without values here, or the settings of a quantised module
        return [name_of(type(values)), *described]
    if flat.dtype.hasobject:
        return [name_of(type(values)), *described]
    return [*described, hashlib.sha256(np.ascontiguousarray(flat).tobytes()).hexdigest()]
