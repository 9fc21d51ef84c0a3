"""Files and folders that are whole or absent: written beside their place, then renamed.

Also the lock that keeps two processes from writing one output at the same time.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from llama_index.finetuning.embeddings.errors import ConfigurationError, OutputError

try:
    import fcntl
except ImportError:  # Windows, whose locks are other ones
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FILES_KEY = "files"
_WEIGHTS = ("adapter_*", "*.safetensors*", "pytorch_model*", "onnx", "openvino")
MANIFEST = "finetuning.json"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
# Characters of a folder's name that the hidden names beside it repeat.
_LONGEST = 40


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces ``path`` only when the block ends without an error.

    Where ``path`` is a link, it stays one, and the file that it points to is replaced.

    Raises:
        OutputError: The file can't be written, or something stands there that is no regular file.
    """
    target = _file_place(path)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target, "tmp")
        try:
            # Halves of surrogate pairs, as in undecodable file names, are written as escapes.
            with temporary.open(
                "w", encoding="utf-8", errors="backslashreplace", newline="\n"
            ) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileNotFoundError):  # what may be read by whom stays
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a new folder that takes the place of ``path`` only when the block ends well.

    Entries of a folder that stands there already are carried over unless the new folder has
    an entry of that name, or the old ``finetuning.json`` lists the entry as its own: what a
    user put beside a model stays, what belonged to the old model goes. On Linux the exchange
    of the two folders is one system call, so every moment sees the old or the new folder whole.
    Where ``path`` is a link, it stays one, and the folder that it points to is replaced.

    Raises:
        OutputError: The folder can't be written, or is the current one.
    """
    target = _folder_place(path)
    with output_errors(target), work_folder(target) as temporary:
        yield temporary
        _list_own_files(temporary)
        _carry_over(target, temporary)
        _exchange(temporary, target)


def check_writable(
    path: str | os.PathLike[str], *, name: str, folder: bool = True, replaced: bool = True
) -> None:
    """Make sure, before any work, that an output can be created or replaced at ``path``.

    Args:
        path: The folder or file to be.
        name: The argument that gave it, for the message.
        folder: Whether it is a folder; else a file.
        replaced: Whether a folder is replaced as a whole, not written into.

    Raises:
        OutputError: It can't; nothing was changed.
    """
    target = _place(path)
    parent = target
    try:
        if target.exists() and target.is_dir() != folder:
            wanted, found = ("folder", "file") if folder else ("file", "folder")
            raise OutputError(
                f"'{name}' must be a {wanted} (got {str(path)!r}, which is a {found}). "
                f"Give another path or move the {found} away."
            )
        if not folder:
            _file_place(path, f"'{name}'")
        if folder and replaced and os.path.ismount(target):
            raise OutputError(
                f"'{name}' can't be replaced whole: at {str(path)!r} another file system begins, "
                "such as a container's volume. Give a folder inside it."
            )
        # What is written into must be writable itself, what is replaced its parent.
        places = target.parents if replaced else (target, *target.parents)
        parent = next(one for one in places if one.exists())
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".write-test-"):
            pass
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"'{name}' can't be written: {str(path)!r} ({error.strerror}). "
            f"Give a path in a folder that you may write to (tried {str(parent)!r})."
        ) from error


def check_apart(
    needed: Iterable[str], output: str | os.PathLike[str], *, name: str, reason: str
) -> None:
    """Make sure that an output does not replace a model that is still needed.

    Args:
        needed: The models' names, or their folders.
        output: The folder to be written.
        name: The argument that named the output, for the message.
        reason: What the models are still needed for.

    Raises:
        ConfigurationError: The output is the folder of a model, or holds it.
    """
    target = Path(output).resolve()
    for base in needed:
        if base and Path(base).is_dir() and Path(base).resolve().is_relative_to(target):
            raise ConfigurationError(
                f"'{name}' must be another folder than the base's (got {os.fspath(output)!r}, and "
                f"{base!r} is needed): {reason}"
            )


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file into a folder that is being filled."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    # What UTF-8 can't hold, as in the path of an undecodable file name, becomes a JSON escape.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def output_lock(path: str | os.PathLike[str], *, name: str, folder: bool = True) -> Iterator[None]:
    """Keep all others, in this process and elsewhere, from writing an output while the block runs.

    What a run that was killed left beside the output is removed, or put back in its place.
    The lock is the system's, on a hidden file beside the output (``.<name>.lock``): it ends
    with the process that holds it, however that ends. The empty file stays, since a process that
    has it open could otherwise hold the lock together with one that made a new file. Where a
    file system has no locks, as on some networks, a warning says so and the block runs without.

    Args:
        path: The folder or file to be.
        name: The argument that gave it, for the message.
        folder: Whether it is a folder, which must be one that may be replaced; else a file.

    Raises:
        OutputError: Somebody else holds the lock, or the output can't be written.
    """
    target = _folder_place(path) if folder else _file_place(path, f"'{name}'")
    lock = FileLock(target.with_name(f".{_short(target)}.lock"), timeout=0)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if _can_lock(lock.lock_file):
                lock.acquire()
            else:
                logger.warning(
                    "The file system of %r has no locks: make sure that no other run writes there.",
                    str(path),
                )
        except Timeout as error:
            raise OutputError(
                f"'{name}' must not be in use (got {str(path)!r}, which another run is writing "
                f"now; it holds {lock.lock_file!r}). Wait until it has ended, or give another path."
            ) from error
    try:
        with output_errors(target):
            _clear_remains(target)
        yield
    finally:
        lock.release()


def _can_lock(file: str) -> bool:
    """Tell whether the system locks files there; filelock would wait, fail or use another lock."""
    if fcntl is None:
        return True
    with Path(file).open("ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _NO_LOCKS
    return True


@contextlib.contextmanager
def work_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that is gone afterwards.

    After a kill, the next `output_lock` on ``path`` removes it.

    Raises:
        OutputError: It can't be written.
    """
    target = _folder_place(path)
    folder = _beside(target, "tmp")
    with output_errors(target):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top is an object.

    Raises:
        ValueError: It is not UTF-8, not JSON, nested too deeply, or no object.
        OSError: It can't be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError(f"the top of the file is a {type(data).__name__}, not an object")
    return data


def _place(path: str | os.PathLike[str]) -> Path:
    try:
        place = Path(path).resolve()
        # From Python 3.13 on a loop of links resolves to itself.
        if any(one.is_symlink() for one in (place, *place.parents)):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return place
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, the character NUL
        raise OutputError(
            f"{str(path)!r} is no path that can be written to: {error}. Give another path."
        ) from error


def _file_place(path: str | os.PathLike[str], subject: str = "An output") -> Path:
    """Return the place of a file that may be replaced; a device must stay what it is."""
    target = _place(path)
    with output_errors(target):
        if target.exists() and not target.is_file():
            raise OutputError(
                f"{subject} must be a regular file (got {str(path)!r}, which is a folder, a device "
                "or a pipe). Give another path."
            )
    return target


def _folder_place(path: str | os.PathLike[str]) -> Path:
    """Return the place of a folder that may be replaced."""
    target = _place(path)
    with output_errors(target):
        current = Path.cwd()
        if target.exists() and not target.is_dir():
            raise OutputError(
                f"Can't write a folder at {str(path)!r}, which is a file. Give another path or "
                "move the file away."
            )
    if target == current or target in current.parents:
        raise OutputError(
            f"Can't replace the folder {str(path)!r}: it is the current one, or holds it. Give "
            "the path of a folder of its own."
        )
    return target


def _short(target: Path) -> str:
    # Names of files have at most 255 bytes, and a character up to four.
    if len(target.name) <= _LONGEST:
        return target.name
    return f"{target.name[:_LONGEST]}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"


def _clear_remains(target: Path) -> None:
    """Remove what killed runs left beside an output that this process has locked."""
    named = re.compile(rf"\.{re.escape(_short(target))}\.[0-9a-f]{{32}}\.(tmp|old)")
    for entry in list(target.parent.iterdir()):
        found = named.fullmatch(entry.name)
        if not found:
            continue
        if found[1] == "old" and not target.exists():
            # Killed between the two renames of a system that can't exchange folders.
            entry.rename(target)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{_short(target)}.{uuid.uuid4().hex}.{ending}")


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn what goes wrong in writing into an OutputError that names the place.

    Raises:
        OutputError: Something can't be written.
    """
    try:
        yield
    except OutputError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save reports a full disk as a RuntimeError of its archive writer.
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
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
        write_json(manifest, data)


def _carry_over(old: Path, new: Path) -> None:
    if not old.is_dir():
        return
    try:
        owned = set(read_json_object(old / MANIFEST).get(_FILES_KEY, []))
    except (OSError, ValueError, TypeError):
        owned = set()
        if (old / "config.json").is_file() or (old / "modules.json").is_file():
            # Another tool's model: its weights beside the new ones would be loaded with them.
            owned = {found.name for pattern in _WEIGHTS for found in old.glob(pattern)}
            if not (old / MANIFEST).is_file():
                # Nor may what is written here be taken for a model of that kind.
                owned |= {"modules.json", "router_config.json"}
    for entry in old.iterdir():
        if entry.name in owned or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(entry, new / entry.name)


def _link(old: str | Path, new: str | Path, **_: Any) -> None:
    """Give a file a second name, so that who has it open goes on writing it; or copy it."""
    try:
        os.link(old, new, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(old, new, follow_symlinks=False)


def _exchange(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    if _rename_exchange(new, target):
        return
    # Elsewhere than on Linux there is no exchange: the old folder steps aside for a moment.
    aside = _beside(target, "old")
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
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
