"""Calls of an embedding model: several at a time, and again where an error may pass."""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Literal

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.encoding.calls import embed_queries, is_remote
from llama_index.finetuning.embeddings.encoding.table import Vectors
from llama_index.finetuning.embeddings.errors import EncodingError, FinetuningError
from llama_index.finetuning.embeddings.redaction import safe_message
from llama_index.finetuning.embeddings.service_errors import (
    is_permanent,
    limits_rate,
    told_wait,
)

logger = logging.getLogger(__name__)

Side = Literal["query", "text"]

_RETRY_WAITS = (1.0, 4.0)  # seconds before the second and the third try
# Seconds that a call waits in all where the service says how long, and each time at least.
_LONGEST_TOLD_WAIT = 300.0
_LEAST_TOLD_WAIT = 1.0
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


def patient_call(
    embed_model: BaseEmbedding,
    side: Side,
    name: Callable[[str], str],
    stopped: threading.Event,
    *,
    has_cache: bool,
) -> Callable[[list[str]], Vectors]:
    """Return the model's batch call, made again where an error may pass, its failure explained.

    Args:
        embed_model: The model.
        side: Whose batch call.
        name: Names a text for an error message.
        stopped: Set when nothing is to be waited for any more.
        has_cache: Whether finished batches are kept.
    """
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
                    f"(first: {name(batch[0])}): {reason}\n{remedy}"
                    # A service's error can quote the key and the texts.
                ) from (None if is_remote(embed_model) else error)

    return call


def _is_fault(error: Exception) -> bool:
    """Tell whether a second try would only repeat an error."""
    # A gateway's page instead of an answer is no fault of the program.
    return isinstance(error, _PERMANENT) and not isinstance(error, json.JSONDecodeError)


def make_calls(
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
