"""Files and folders that are whole or absent: written beside their place, then renamed."""

import contextlib
import ctypes
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from llama_index.finetuning.embeddings.errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FILES_KEY = "files"
MANIFEST = "finetuning.json"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces ``path`` only when the block ends without an error.

    Raises:
        OutputError: The file can't be written.
    """
    target = Path(path)
    with _output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a new folder that takes the place of ``path`` only when the block ends well.

    Entries of a folder that stands there already are carried over unless the new folder has
    an entry of that name, or the old ``finetuning.json`` lists the entry as its own: what a
    user put beside a model stays, what belonged to the old model goes. On Linux the exchange
    of the two folders is one system call, so every moment sees the old or the new folder whole.

    Raises:
        OutputError: The folder can't be written.
    """
    target = Path(path)
    with _output_errors(target):
        # A link stays a link: its target is what gets replaced.
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.mkdir()
            yield temporary
            _list_own_files(temporary)
            _carry_over(target, temporary)
            _exchange(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: str | os.PathLike[str], *, name: str) -> None:
    """Make sure, before any work, that a folder can be created or replaced at ``path``.

    Args:
        path: The folder to be.
        name: The argument that gave it, for the message.

    Raises:
        OutputError: It can't; nothing was changed.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise OutputError(
            f"'{name}' must be a folder (got {str(path)!r}, which is a file). "
            "Give another path or move the file away."
        )
    parent = next(folder for folder in target.resolve().parents if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".write-test-"):
            pass
    except OSError as error:
        raise OutputError(
            f"'{name}' can't be written: {str(path)!r} ({error.strerror}). "
            f"Give a path in a folder that you may write to (tried {str(parent)!r})."
        ) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top is an object.

    Raises:
        ValueError: It is not UTF-8, not JSON, or no object.
        OSError: It can't be read.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"the top of the file is a {type(data).__name__}, not an object")
    return data


@contextlib.contextmanager
def _output_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"Can't write {str(target)!r}: {reason}. What stood there before is unchanged; free "
            "space or choose another path."
        ) from error


def _list_own_files(folder: Path) -> None:
    manifest = folder / MANIFEST
    if manifest.is_file():
        data = read_json_object(manifest)
        data[_FILES_KEY] = sorted(entry.name for entry in folder.iterdir())
        manifest.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _carry_over(old: Path, new: Path) -> None:
    if not old.is_dir():
        return
    try:
        owned = set(read_json_object(old / MANIFEST).get(_FILES_KEY, []))
    except (OSError, ValueError, TypeError):
        owned = set()
    for entry in old.iterdir():
        if entry.name in owned or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _exchange(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    if _rename_exchange(new, target):
        return
    # Elsewhere than on Linux there is no exchange: the old folder steps aside for a moment.
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one system call; False where the system has none."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    status: int = renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    return status == 0
