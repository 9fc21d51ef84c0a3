"""Functions and classes by what is written in them."""

import contextlib
import dis
import functools
import hashlib
import re
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from llama_index.finetuning.embeddings.encoding.what_counts import (
    PLAIN,
    counts,
    is_model,
    is_record,
)

# Packages whose classes and functions count by their names alone, as no user edits them.
_LIBRARIES = sys.stdlib_module_names | {
    "llama_index",
    "llama_index_instrumentation",
    "pydantic",
    "sentence_transformers",
    "torch",
    "transformers",
}
_GROWING = (dict, list, set)
_CONSTANTS = (*PLAIN, *_GROWING, bytes, frozenset, np.ndarray, re.Pattern, tuple)
_LONGEST = 1000  # entries of a container
_CACHED = type(functools.lru_cache(str))
# What holds a function of a class, and under which name.
_HOLDERS: dict[type, str] = {
    property: "fget",
    functools.cached_property: "func",
    functools.singledispatchmethod: "func",
}
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
# Whether a caller gave a value for good, or an object holds it.
Origin = Literal["own", "given"]


def name_of(thing: Any) -> str:
    """Name a class or a function, with its module."""
    module = getattr(thing, "__module__", None)
    # The main module is called so in the processes that multiprocessing starts.
    return f"{'__main__' if module == '__mp_main__' else module}.{thing.__qualname__}"


def is_library(thing: Any) -> bool:
    """Tell whether a class or a function is of a package that is known not to be a user's own."""
    return _package(thing) in _LIBRARIES


def code_of(code: types.CodeType) -> list[Any]:
    """Describe a function's code, that of the functions in it included."""
    constants = [
        code_of(one)
        if isinstance(one, types.CodeType)
        # Sets are in another order in every process.
        else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    return [hashlib.sha256(code.co_code).hexdigest(), list(code.co_names), constants]


def used_by(function: Any, code: types.CodeType | None) -> Iterator[tuple[str, Any, Origin]]:
    """Yield what a function uses, with the names and where it is from.

    That is what it holds on to, its default arguments, and what its module has under the names
    in its code: constants, and functions of the same package or of one that is not installed.
    """
    for name in ("__self__", "__wrapped__"):
        yield name, getattr(function, name, None), "own"
    if code is None:
        return
    known = getattr(function, "__globals__", {})
    names = {
        one.argval
        for part in _codes(code)
        for one in dis.get_instructions(part)
        if one.opname in _GLOBAL
    }
    for name, value in _constants((name, known[name]) for name in sorted(names & known.keys())):
        own = _package(value) == _package(function) or not _is_installed(value)
        if own or not isinstance(value, types.FunctionType):
            yield name, value, "own"
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars, cells, strict=False):
        with contextlib.suppress(ValueError):  # not filled yet
            yield name, cell.cell_contents, "own"
    values = getattr(function, "__defaults__", None) or ()
    arguments = code.co_varnames[: code.co_argcount]
    yield from (
        (name, value, "given")
        for name, value in (
            *zip(arguments[::-1], values[::-1], strict=False),
            *(getattr(function, "__kwdefaults__", None) or {}).items(),
        )
    )


def written_in(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and constants of a class and of those that it inherits from."""
    for cls in kind.__mro__:
        if not is_library(cls):
            yield from _constants((name, vars(cls)[name]) for name in sorted(vars(cls)))


def _constants(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield what a class or a module says itself: its functions and its constants."""
    for name, value in named:
        held = (name for kind, name in _HOLDERS.items() if isinstance(value, kind))
        said = getattr(value, next(held, "__func__"), value)
        if isinstance(said, _CACHED):
            said = said.__wrapped__
        if isinstance(said, types.FunctionType):
            is_said = not is_library(said)
        else:
            is_constant = isinstance(said, _CONSTANTS) or is_model(said)
            is_said = (
                is_constant
                and not name.startswith("__")
                and counts(name, said)
                and not _grows(name, said)
            )
        if is_said:
            yield name, said


def _grows(name: str, value: Any) -> bool:
    """Tell whether a script may collect in a value meanwhile, whatever its name."""
    is_long = isinstance(value, _GROWING) and len(value) > _LONGEST
    return is_long or is_record(f"_{name}", value)


def _is_installed(thing: Any) -> bool:
    module = sys.modules.get(str(getattr(thing, "__module__", None)))
    file = getattr(module, "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None)).partition(".")[0]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code, and that of the functions in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from _codes(one)
