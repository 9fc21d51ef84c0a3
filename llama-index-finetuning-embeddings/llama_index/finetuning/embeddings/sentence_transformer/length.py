"""How many tokens of a document the model sees."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.errors import ConfigurationError

logger = logging.getLogger(__name__)

# A share of cut documents up to which the model's own length is left alone.
_TOLERATED_SHARE = 0.05


def choose_max_seq_length(
    model: SentenceTransformer, document_lengths: Callable[[], NDArray[np.int64]]
) -> int | None:
    """Return the length that holds 95 % of the documents, if the model's own cuts more than 5 %.

    The result is capped by the model's positions. None means: leave the model's length as it is.

    Args:
        model: The model to train.
        document_lengths: Counts the tokens of each training document, special tokens and prompt
            included, shape ``(n_documents,)``; not called where the positions allow no more.
    """
    own = model.max_seq_length
    limit = position_limit(model)
    if own is None or limit is None or limit <= own:
        return None
    lengths = document_lengths()
    cut = share_cut(lengths, own)
    if cut <= _TOLERATED_SHARE:
        return None
    wanted = int(np.quantile(lengths, 1 - _TOLERATED_SHARE, method="higher"))
    chosen = min(wanted, limit)
    logger.info(
        "max_seq_length: the model's own %d tokens cut %.0f %% of the training documents; "
        "using %d, which cuts %.0f %% (max_seq_length=None keeps the model's own)",
        own,
        100 * cut,
        chosen,
        100 * share_cut(lengths, chosen),
    )
    return chosen


def check_max_seq_length(model: SentenceTransformer, length: int) -> None:
    """Make sure that a model can be told a length, and that its positions reach it.

    Raises:
        ConfigurationError: It can't, or they don't.
    """
    limit = position_limit(model)
    if limit is not None and length > limit:
        raise ConfigurationError(
            f"'max_seq_length' must not exceed the {limit} positions of the model (got {length}). "
            "Use 'auto' or a smaller number."
        )
    own = model.max_seq_length
    set_max_seq_length(model, length)
    set_max_seq_length(model, own)


def set_max_seq_length(model: SentenceTransformer, length: float | None) -> None:
    """Set a model's length, unless it has it already: models without a limit refuse to be told.

    Raises:
        ConfigurationError: The model's length can't be set.
    """
    if length == model.max_seq_length:
        return
    try:
        model.max_seq_length = length
    except AttributeError as error:
        raise ConfigurationError(
            f"'max_seq_length' can't be set to {length}: {type(model[0]).__name__} models read "
            "texts of any length. Use max_seq_length=None."
        ) from error


@contextlib.contextmanager
def cut_to(model: SentenceTransformer, length: int) -> Iterator[None]:
    """Let a model read no more than so many tokens for a while, where it has a length at all."""
    own = model.max_seq_length
    if own is not None and length < own < float("inf"):
        model.max_seq_length = length
    try:
        yield
    finally:
        set_max_seq_length(model, own)


def share_cut(lengths: NDArray[np.int64], max_seq_length: float) -> float:
    """Return the share of texts, 0 to 1, that are longer than a length in tokens."""
    return float(np.mean(lengths > max_seq_length)) if len(lengths) else 0.0


def position_limit(model: SentenceTransformer) -> int | None:
    """Return how many tokens the model's positions reach, None where nothing limits them."""
    transformer = upstream.transformer_of(model)
    if transformer is None:
        return None
    limits = [getattr(transformer.config, "max_position_embeddings", None)]
    limits += [_table_size(module) for module in _position_tables(transformer)]
    known = [limit for limit in limits if limit is not None and limit > 0]
    return min(known, default=None)


def _position_tables(transformer: nn.Module) -> Iterable[nn.Embedding]:
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            yield module


def _table_size(table: nn.Embedding) -> int:
    # RoBERTa and its kin count positions from the padding index on.
    offset = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - offset
