"""Embed many texts, each distinct one exactly once."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.encoding.cache import VectorCache
from llama_index.finetuning.embeddings.encoding.calls import (
    adapted,
    has_query_batches,
    is_remote,
    source_of,
)
from llama_index.finetuning.embeddings.encoding.identity import identity
from llama_index.finetuning.embeddings.encoding.patience import Side, make_calls, patient_call
from llama_index.finetuning.embeddings.encoding.table import Table, Vectors, allocate
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.validation import check_integer

_REMOTE_WORKERS = 4
# Some 2,000 tokens of English: measured, MiniLM takes a tenth less time a text than with twice as
# many, and a sixth less than with 32 passages.
_CPU_BATCH_CHARACTERS = 8_192
_CHARACTERS_PER_TOKEN = 4


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
    known: Mapping[str, Sequence[float] | NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Embed texts in batches, every distinct text exactly once.

    Texts that are in the cache are read from there. The others go through the model's batch
    call: longest first where the model is local, so that a batch holds texts of like length and
    little padding; several calls at a time where it is behind an API. A call that fails for a
    reason that may pass (no built-in error of a program) is tried three times; where the service
    says how long to wait, again and again for up to five minutes. Every finished batch is in the
    cache before the next one starts, whatever happens afterwards. A wrapper's texts go straight
    to the model behind it, and its vectors are kept as that model's: the side that the wrapper
    leaves as it is (the texts, for most adapters), and the one that an adapter then changes.

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
    for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
        if value is not None:
            check_integer(name, value, minimum=1, other="None or ")
    own_size = embed_model.embed_batch_size
    given = embed_model
    embed_model, adapters = source_of(embed_model, side)
    if known and adapters:  # what is known is adapted already
        others = [i for i, text in enumerate(texts) if text not in known]
        found = encode(
            given,
            [texts[i] for i in others],
            side,
            ids=None if ids is None else [ids[i] for i in others],
            batch_size=batch_size,
            num_workers=num_workers,
            cache_dir=cache_dir,
            show_progress=show_progress,
        )
        dim = found.shape[1] if others else len(next(iter(known.values())))
        whole = allocate(len(texts), dim)
        for i, text in enumerate(texts):
            if text in known:
                whole[i] = known[text]
        if others:
            whole[others] = found
        return whole
    rows: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        rows.setdefault(text, []).append(i)
    table = Table(rows, ids)
    known = known or {}
    for text in rows.keys() & known.keys():
        table.fill([text], np.asarray(known[text])[np.newaxis])
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
        size = batch_size or own_size
        if side == "query" and not has_query_batches(embed_model):
            size = 1  # so that all workers are busy, and a failure costs no other query again
        elif size > embed_model.embed_batch_size:
            embed_model = stack.enter_context(_with_batch_size(embed_model, size))
        remote = is_remote(embed_model)
        if not remote:
            todo.sort(key=len, reverse=True)
        workers = num_workers or embed_model.num_workers or (_REMOTE_WORKERS if remote else 1)
        stopped = threading.Event()
        call = patient_call(embed_model, side, table.name, stopped, has_cache=cache is not None)
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

        make_calls(call, batches, workers, keep, stopped)
    return adapted(table.vectors, adapters, side)


@contextlib.contextmanager
def _with_batch_size(embed_model: BaseEmbedding, size: int) -> Iterator[BaseEmbedding]:
    """Yield a copy with larger batches that shares all else: other calls go on as they were."""
    copy = embed_model.model_copy(update={"embed_batch_size": size})
    object.__setattr__(copy, "__pydantic_private__", embed_model.__pydantic_private__)
    before = dict(vars(copy))
    try:
        yield copy
    finally:
        # A model that it loaded when it was first called, a counter.
        changed = {k: v for k, v in vars(copy).items() if k not in before or v is not before[k]}
        vars(embed_model).update(changed)


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
