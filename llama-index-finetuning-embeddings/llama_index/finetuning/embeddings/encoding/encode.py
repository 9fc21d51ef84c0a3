"""Embed many texts, each distinct one exactly once."""

import contextlib
import errno
import itertools
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Literal

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.encoding.cache import VectorCache
from llama_index.finetuning.embeddings.encoding.calls import (
    embed_queries,
    has_query_batches,
    is_remote,
    model_behind,
)
from llama_index.finetuning.embeddings.encoding.identity import identity
from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    EncodingError,
    FinetuningError,
    OutputError,
)
from llama_index.finetuning.embeddings.redaction import safe_message
from llama_index.finetuning.embeddings.service_errors import (
    is_permanent,
    limits_rate,
    told_wait,
)

logger = logging.getLogger(__name__)

Side = Literal["query", "text"]
Vectors = Sequence[Sequence[float]]

_REMOTE_WORKERS = 4
# Some 4,000 tokens of English: measured, a batch of MiniLM takes a seventh less time than with 32
# passages.
_CPU_BATCH_CHARACTERS = 16_384
_CHARACTERS_PER_TOKEN = 4
_RETRY_WAITS = (1.0, 4.0)  # seconds before the second and the third try
# Seconds that a call waits in all where the service says how long, and each time at least.
_LONGEST_TOLD_WAIT = 300.0
_LEAST_TOLD_WAIT = 1.0
_MEMORY_BYTES = 2**30
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Faults of the program or of its input, which a second try would only repeat.
_PERMANENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FinetuningError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def encode(
    embed_model: BaseEmbedding,
    texts: Sequence[str],
    side: Side,
    *,
    ids: Sequence[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
    known: Mapping[str, Sequence[float]] | None = None,
) -> NDArray[np.float32]:
    """Embed texts in batches, every distinct text exactly once.

    Texts that are in the cache are read from there. The others go through the model's batch
    call: longest first where the model is local, so that a batch holds texts of like length and
    little padding; several calls at a time where it is behind an API. A call that fails for a
    reason that may pass (no built-in error of a program) is tried three times; where the service
    says how long to wait, again and again for up to five minutes. Every finished batch is in the
    cache before the next one starts, whatever happens afterwards. A side that a
    wrapper leaves as it is (the texts, for most adapters) goes straight to the model behind it,
    and its vectors are kept as that model's.

    Args:
        embed_model: Any LlamaIndex embedding model.
        texts: The texts; they may repeat.
        side: Embed as queries (with the model's query prompt) or as texts.
        ids: A name for each text, used in error messages; default: its position.
        batch_size: Texts per call; default: the model's own ``embed_batch_size``, and fewer
            long ones on a CPU, whose caches hold the activations of few. Queries go one by one
            to a model that has no batch call for them.
        num_workers: Calls in flight at a time, each in a thread of its own; default: the
            model's own ``num_workers``, or else 4 for a model with an API's fields and 1 for
            any other. The model's rate limiter is heeded.
        cache_dir: Folder of the on-disk cache; default: no cache. Vectors are kept by the
            model's identity (see `identity`), the side and the text.
        show_progress: Show a progress bar.
        known: Vectors of texts that the model has embedded already, on this side.

    Returns:
        Vectors as the model gave them, not normalised, shape ``(n_texts, dim)``, in the order
        of ``texts``; memory-mapped to a temporary file beyond one GiB. ``(0, 0)`` for no texts.

    Raises:
        ConfigurationError: An argument has a value that can't work.
        EncodingError: The model failed for good, or gave a vector that is not finite or not
            of the same length as the others; the message names the text.
        OutputError: The cache can't be written.
    """
    _check(embed_model, texts, side, ids)
    own_size = embed_model.embed_batch_size
    embed_model = model_behind(embed_model, side)
    for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name!r} must be at least 1 (got {value}).")
    rows: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        rows.setdefault(text, []).append(i)
    table = _Table(rows, ids)
    for text, given in (known or {}).items():
        if text in rows:
            table.fill([text], [given])
    with contextlib.ExitStack() as stack:
        cache = None
        if cache_dir is not None:
            cache = stack.enter_context(VectorCache(cache_dir, identity(embed_model, side)))
            for text, vector in cache.get(side, table.missing()):
                table.fill([text], vector[np.newaxis])
        todo = table.missing()
        bar = stack.enter_context(
            tqdm(
                total=len(todo),
                desc=f"Embedding {'queries' if side == 'query' else 'texts'}",
                unit="text",
                disable=not show_progress or not todo,
            )
        )
        size = stack.enter_context(_batch_size(embed_model, batch_size or own_size))
        if side == "query" and not has_query_batches(embed_model):
            size = 1  # so that all workers are busy, and a failure costs no other query again
        remote = is_remote(embed_model)
        if not remote:
            todo.sort(key=len, reverse=True)
        workers = num_workers or embed_model.num_workers or (_REMOTE_WORKERS if remote else 1)
        stopped = threading.Event()
        call = _patient_call(embed_model, side, table, stopped, has_cache=cache is not None)
        fits_cache = batch_size is None and _runs_on_cpu(embed_model)
        batches = _cut(
            todo, size, _CPU_BATCH_CHARACTERS if fits_cache else None, _longest(embed_model)
        )

        def keep(batch: list[str], found: Vectors) -> None:
            filled, vectors = table.fill(batch, found)
            if cache is not None:
                cache.put(side, filled, vectors)
            bar.update(len(filled))
            table.check_filled(batch)

        _make_calls(call, batches, workers, keep, stopped)
    return table.vectors


class _Table:
    """The vectors of all texts, filled batch by batch; allocated when the first one tells dim."""

    def __init__(self, rows: dict[str, list[int]], ids: Sequence[str] | None) -> None:
        self._rows = rows
        self._ids = ids
        self._n_rows = sum(len(places) for places in rows.values())
        self._filled: set[str] = set()
        self.vectors: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def missing(self) -> list[str]:
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
            self.vectors = _allocate(self._n_rows, dim)
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


def _allocate(n_rows: int, dim: int) -> NDArray[np.float32]:
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


def _patient_call(
    embed_model: BaseEmbedding,
    side: Side,
    table: _Table,
    stopped: threading.Event,
    *,
    has_cache: bool,
) -> Callable[[list[str]], Vectors]:
    """Return the model's batch call with retries until stopped, and its failure explained."""
    remedy = (
        "What came before is in the cache."
        if has_cache
        else "Pass 'cache_dir' to keep what was embedded for the next run."
    )

    def once(batch: list[str]) -> Vectors:
        if side == "query":
            return embed_queries(embed_model, batch)
        return embed_model.get_text_embedding_batch(batch)

    def call(batch: list[str]) -> Vectors:
        waits = iter(_RETRY_WAITS)
        may_wait = _LONGEST_TOLD_WAIT
        untold = _LEAST_TOLD_WAIT
        while True:
            try:
                return once(batch)
            except Exception as error:
                told = told_wait(error)
                if told is None and limits_rate(error):
                    told, untold = untold, 2 * untold
                if told is None:
                    seconds = next(waits, None)
                else:
                    seconds = max(told, _LEAST_TOLD_WAIT)
                    may_wait -= seconds
                reason = safe_message(error, owner=embed_model, texts=batch)
                final = _is_fault(error) or is_permanent(error) or may_wait < 0
                if seconds is not None and not final:
                    logger.warning("Embedding failed, next try in %g s: %s", seconds, reason)
                    if not stopped.wait(seconds):
                        continue
                raise EncodingError(
                    f"The embedding model {embed_model.model_name!r} failed on {len(batch)} texts "
                    f"(first: {table.name(batch[0])}): {reason}\n{remedy}"
                    # A service's error can quote the key and the texts.
                ) from (None if is_remote(embed_model) else error)

    return call


def _is_fault(error: Exception) -> bool:
    """Tell whether a second try would only repeat an error."""
    # A gateway's page instead of an answer is no fault of the program.
    return isinstance(error, _PERMANENT) and not isinstance(error, json.JSONDecodeError)


def _runs_on_cpu(embed_model: BaseEmbedding) -> bool:
    """Tell whether a model says that it runs on this machine's CPU, in this process."""
    # Several processes share out a batch among them, so that it is no smaller for their sake.
    several = getattr(embed_model, "_parallel_process", False)
    return not several and str(getattr(embed_model, "_device", "")) == "cpu"


def _longest(embed_model: BaseEmbedding) -> int | None:
    """Return about how many characters of a text a model reads, where it tells."""
    tokens = getattr(embed_model, "max_length", None)
    return tokens * _CHARACTERS_PER_TOKEN if isinstance(tokens, int) else None


def _cut(
    texts: list[str], size: int, characters: int | None, longest: int | None
) -> Iterator[list[str]]:
    """Yield runs of at most ``size`` texts and, given so many, of about that many characters.

    Of a text only the first ``longest`` characters count, as the rest is cut off.
    """
    start = 0
    while start < len(texts):
        stop = start + size
        if characters is not None:
            length = min(len(texts[start]), longest or len(texts[start]))
            stop = start + min(size, max(1, characters // max(1, length)))
        yield texts[start:stop]
        start = stop


def _make_calls(
    call: Callable[[list[str]], Vectors],
    batches: Iterable[list[str]],
    workers: int,
    keep: Callable[[list[str], Vectors], None],
    stopped: threading.Event,
) -> None:
    """Hand each batch's vectors to ``keep``; after a failure or Ctrl-C, first those under way.

    That moment sets ``stopped``, so that none of them goes on to wait for another try.
    """
    if workers == 1:
        for batch in batches:
            keep(batch, call(batch))
        return
    todo = iter(batches)
    running: dict[Future[Vectors], list[str]] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        while True:
            if failure is None:
                for batch in itertools.islice(todo, workers - len(running)):
                    running[pool.submit(call, batch)] = batch
            if not running:
                break
            try:
                done = wait(running, return_when=FIRST_COMPLETED).done
            except KeyboardInterrupt as error:
                if failure is not None:
                    raise
                failure = error
                stopped.set()
                continue
            for future in done:
                try:
                    keep(running.pop(future), future.result())
                except BaseException as error:
                    failure = failure or error
                    stopped.set()
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _batch_size(embed_model: BaseEmbedding, size: int) -> Iterator[int]:
    """Give the batch size, which the model's own batch call is made to follow for the moment."""
    before = embed_model.embed_batch_size
    if size == before:
        yield before
        return
    embed_model.embed_batch_size = size
    try:
        yield size
    finally:
        embed_model.embed_batch_size = before


def _check(
    embed_model: BaseEmbedding, texts: Sequence[str], side: str, ids: Sequence[str] | None
) -> None:
    if not isinstance(embed_model, BaseEmbedding):
        raise ConfigurationError(
            f"'embed_model' must be a LlamaIndex BaseEmbedding (got "
            f"{type(embed_model).__name__}). For a name or a folder, build one with "
            "llama_index.core.embeddings.resolve_embed_model('local:...')."
        )
    if side not in ("query", "text"):
        raise ConfigurationError(f"'side' must be in ('query', 'text') (got {side!r}).")
    if ids is not None and len(ids) != len(texts):
        raise ConfigurationError(
            f"'ids' must name each text (got {len(ids)} ids for {len(texts)} texts)."
        )
