"""Vectors on disk, so that none is ever paid for twice."""

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from llama_index.finetuning.embeddings.errors import EncodingError, OutputError
from llama_index.finetuning.embeddings.files import check_writable

_LOOKUP_ROWS = 500
_LOCK_SECONDS = 120.0
_LOCK_PAUSE = 0.01  # seconds


class VectorCache:
    """One SQLite file for one embedding model; a context manager.

    Every ``put`` is a transaction: a process that is killed loses nothing that it had put, and
    any number of processes may read and write at the same time.

    Args:
        folder: Where the files of all models lie; created when missing.
        model_identity: The model's hash; it names the file.

    Raises:
        OutputError: The folder can't be written to.
        EncodingError: The file that stands there is no cache.
    """

    def __init__(self, folder: str | os.PathLike[str], model_identity: str) -> None:
        check_writable(folder, name="cache_dir", replaced=False)
        self._path = Path(folder) / f"embeddings-{model_identity[:32]}.sqlite"
        with self._explained():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=_LOCK_SECONDS)
        try:
            with self._explained():
                self._keep_a_log()
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) "
                    "WITHOUT ROWID"
                )
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, side: str, texts: Iterable[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield those of the texts that are known, each with its vector of shape ``(dim,)``.

        Raises:
            OutputError: The file can't be read.
            EncodingError: It is damaged, or holds something else than vectors.
        """
        keys = {_key(side, text): text for text in texts}
        wanted = list(keys)
        for start in range(0, len(wanted), _LOOKUP_ROWS):
            part = wanted[start : start + _LOOKUP_ROWS]
            query = "SELECT key, vector FROM vectors WHERE key IN ({})"
            with self._explained():
                rows = self._connection.execute(
                    query.format(",".join("?" * len(part))), part
                ).fetchall()
            for key, blob in rows:
                if not isinstance(blob, bytes) or len(blob) % 4 or not blob:
                    raise self._no_cache("it holds something else than vectors")
                yield keys[key], np.frombuffer(blob, dtype="<f4")

    def put(self, side: str, texts: Iterable[str], vectors: NDArray[np.float32]) -> None:
        """Remember vectors of shape ``(n_texts, dim)``, all of them or, on an error, none.

        Raises:
            OutputError: The file can't be written.
            EncodingError: It is damaged.
        """
        rows = [
            (_key(side, text), vector.astype("<f4").tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        ]
        with self._explained(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _keep_a_log(self) -> None:
        """Let readers go on while one process writes, by a log beside the file."""
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite itself does not wait where two open a new file at the same time.
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(_LOCK_PAUSE)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise OutputError(f"The cache {str(self._path)!r} can't be used: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise self._no_cache(error) from error

    def _no_cache(self, reason: object) -> EncodingError:
        return EncodingError(
            f"{str(self._path)!r} is no cache of vectors ({reason}). Delete it, or give another "
            "'cache_dir'."
        )


def _key(side: str, text: str) -> bytes:
    return hashlib.sha256(f"{side}\0{text}".encode("utf-8", "surrogatepass")).digest()
