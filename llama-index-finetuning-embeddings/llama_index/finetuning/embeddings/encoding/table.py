"""The vectors of many texts, in memory or mapped to a file."""

import errno
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.errors import EncodingError, OutputError

Vectors = Sequence[Sequence[float]]

_MEMORY_BYTES = 2**30
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Table:
    """The vectors of all texts, filled batch by batch; allocated when the first one tells dim.

    Args:
        rows: Each distinct text with its rows.
        ids: A name for each row, used in error messages; None: its number.

    Attributes:
        vectors: Shape ``(n_rows, dim)``; empty before the first is known.
    """

    def __init__(self, rows: dict[str, list[int]], ids: Sequence[str] | None) -> None:
        self._rows = rows
        self._ids = ids
        self._n_rows = sum(len(places) for places in rows.values())
        self._filled: set[str] = set()
        self.vectors: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def missing(self) -> list[str]:
        """Return the texts that have no vector yet."""
        return [text for text in self._rows if text not in self._filled]

    def name(self, text: str) -> str:
        """Name a text for an error message: by its id where there is one."""
        row = self._rows[text][0]
        return repr(self._ids[row]) if self._ids is not None else f"number {row}"

    def fill(
        self, texts: list[str], found: Vectors | NDArray[np.float32]
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Place the vectors of some texts, those that are finite.

        Returns:
            The texts whose vectors are finite, and these, shape ``(n_finite, dim)``.

        Raises:
            EncodingError: There are too few, or they are not as long as the others.
        """
        if len(found) != len(texts):
            raise EncodingError(
                f"The embedding model gave {len(found)} vectors for {len(texts)} texts (first: "
                f"{self.name(texts[0])})."
            )
        dim = self.vectors.shape[1] or len(found[0])
        for text, vector in zip(texts, found, strict=True):
            if len(vector) != dim or dim == 0:
                raise EncodingError(
                    f"The embedding model gave {len(vector)} dimensions for text "
                    f"{self.name(text)} where the others have {dim}. All vectors must have the "
                    "same length."
                )
        with np.errstate(over="ignore"):
            vectors = np.asarray(found, dtype=np.float32)
        finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        filled = [texts[i] for i in finite]
        vectors = vectors[finite]
        if not self.vectors.size:
            self.vectors = allocate(self._n_rows, dim)
        for text, vector in zip(filled, vectors, strict=True):
            self.vectors[self._rows[text]] = vector
        self._filled.update(filled)
        return filled, vectors

    def check_filled(self, texts: list[str]) -> None:
        """Make sure that texts which came back from the model have their vectors.

        Raises:
            EncodingError: The vector of one was not finite.
        """
        for text in texts:
            if text not in self._filled:
                raise EncodingError(
                    f"The embedding model gave a vector that is not finite for text "
                    f"{self.name(text)}: {text[:80]!r}. Remove the text, or try another precision."
                )


def allocate(n_rows: int, dim: int) -> NDArray[np.float32]:
    """Return an empty table, mapped to a temporary file where it is large.

    Raises:
        OutputError: There is no room for the file.
    """
    if n_rows * dim * 4 <= _MEMORY_BYTES:
        return np.empty((n_rows, dim), dtype=np.float32)
    # The map keeps the file's space alive; closing the file frees its name.
    with tempfile.TemporaryFile(prefix="embeddings-") as file:
        _reserve(file.fileno(), n_rows * dim * 4)
        return np.memmap(file, dtype=np.float32, mode="w+", shape=(n_rows, dim))


def _reserve(file: int, n_bytes: int) -> None:
    """Make room for a map, since a full disk would end the process at the first write."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, n_bytes)
    except OSError as error:
        if error.errno not in _NO_ROOM:  # some file systems can't promise
            return
        raise OutputError(
            f"The vectors need {n_bytes / 2**30:.1f} GiB in the folder for temporary files, "
            f"{tempfile.gettempdir()!r} ({error.strerror}). Free some space, or set the "
            "environment variable TMPDIR to another folder."
        ) from error
