"""Let file operations fail: the nth one below a folder, or every write beyond some bytes."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import resource
except ImportError:  # Windows
    resource = None

needs_write_limit = pytest.mark.skipif(resource is None, reason="needs RLIMIT_FSIZE")

_EVENTS = ("open", "os.mkdir", "os.rename")


class _Watch:
    """Counts operations below a folder, and raises at one of them."""

    def __init__(self) -> None:
        self.folder = ""
        self.left = 0
        self.errno = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.left or event not in _EVENTS:
            return
        if event == "open" and arguments[1] is None:  # a folder, on its way to be removed
            return
        if any(str(one).startswith(self.folder) for one in arguments[:2]):
            self.tick()

    def tick(self) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(self.errno, os.strerror(self.errno))


_watch = _Watch()
sys.addaudithook(_watch)


@contextlib.contextmanager
def failing_at(n: int, folder: Path, errno: int) -> Iterator[None]:
    """Fail at the nth open, mkdir, rename or fsync below a folder, counted from 1."""
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        if _watch.left:
            _watch.tick()
        fsync(descriptor)

    _watch.folder, _watch.left, _watch.errno = str(folder), n, errno
    os.fsync = counted
    try:
        yield
    finally:
        os.fsync = fsync
        reached = not _watch.left
        _watch.left = 0
    if not reached:
        raise NotReached


class NotReached(Exception):
    """There were fewer operations, and all went well."""


def each_failure(
    prepare: Callable[[], None], run: Callable[[], None], folder: Path, errno: int
) -> Iterator[OSError | None]:
    """Run once for each of the file operations below a folder, which fails, and then without.

    Args:
        prepare: Called before each run.
        run: What to run.
        folder: Where it works.
        errno: How an operation fails.

    Yields:
        The error that came out of each run, if any.
    """
    for n in itertools.count(1):
        prepare()
        caught = None
        try:
            with failing_at(n, folder, errno):
                try:
                    run()
                except OSError as error:
                    caught = error
        except NotReached:
            assert caught is None
            return
        yield caught


@contextlib.contextmanager
def writes_end_at(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: a real error of the system for whoever writes more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
