"""Whether queries, corpus and relevance fit together, and whether numbers are in range."""

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from llama_index.core.bridge.pydantic import ValidationError

from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError, shown

logger = logging.getLogger(__name__)

_SEEDS = 2**32  # what NumPy's global generator takes


def check_contents(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    relevant_docs: Mapping[str, Sequence[str]],
    hard_negatives: Mapping[str, Sequence[str]] | None,
) -> None:
    """Make sure that there are queries, that nothing is empty, and that every named id exists.

    Raises:
        DatasetError: They do not fit together; the message names the first offending ids and
            counts them all.
    """
    if not queries:
        raise DatasetError(
            f"The dataset has no queries ({len(corpus):,} documents). Add at least one "
            "query with a relevant document."
        )
    _reject(
        [qid for qid, text in queries.items() if not text.strip()],
        "{n} queries have an empty text: {ids}. Remove them or fill them in.",
    )
    _reject(
        [docid for docid, text in corpus.items() if not text.strip()],
        "{n} documents of the corpus have an empty text: {ids}. Remove them or fill them in.",
    )
    for name, texts in (("queries", queries), ("corpus", corpus)):
        _reject(
            [one for one, text in texts.items() if not (is_encodable(text) and is_encodable(one))],
            f"{{n}} entries of '{name}' hold half of a surrogate pair, which no file and no "
            "tokenizer takes: {ids}. Mend them with "
            "text.encode('utf-8', 'ignore').decode().",
        )
    _reject(
        [qid for qid in queries if not relevant_docs.get(qid)],
        "{n} queries have no relevant document: {ids}. Add one to 'relevant_docs' for each, "
        "or remove the queries.",
    )
    _check_document_ids("relevant_docs", relevant_docs, queries, corpus)
    if hard_negatives is not None:
        _check_document_ids("hard_negatives", hard_negatives, queries, corpus)
        _reject(
            [
                f"{qid}: {docid}"
                for qid in queries
                for docid in hard_negatives.get(qid, ())
                if docid in relevant_docs[qid]
            ],
            "{n} hard negatives are relevant documents of the same query: {ids}. Remove them "
            "from 'hard_negatives'.",
        )
    strangers = [qid for qid in relevant_docs if qid not in queries]
    if strangers:
        logger.warning(
            "'relevant_docs' names %d ids that are no query and are ignored: %s",
            len(strangers),
            shown(strangers),
        )


class Unset(int):
    """The default of an argument for which "not given" means more than its number."""


def check_integer(name: str, value: Any, *, minimum: int, other: str = "") -> None:
    """Make sure that an argument is a whole number.

    Args:
        name: The argument, for the message.
        value: What was given.
        minimum: The least that it may be.
        other: What else it may be, for the message.

    Raises:
        ConfigurationError: It is something else, or less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ConfigurationError(
            f"'{name}' must be {other}an integer of at least {minimum} (got {value!r})."
        )


def check_number(name: str, value: Any, *, above: bool = False) -> None:
    """Make sure that an argument is a finite number of at least 0.

    Args:
        name: The argument, for the message.
        value: What was given.
        above: It must be above 0.

    Raises:
        ConfigurationError: It is something else, or less.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (above and value == 0):
        wanted = "above 0" if above else "0 or more"
        raise ConfigurationError(f"{name!r} must be {wanted} and finite (got {value!r}).")


def check_seed(seed: Any) -> None:
    """Make sure that a seed is one that every random generator takes.

    Raises:
        ConfigurationError: It is no whole number, below 0, or 2**32 and more.
    """
    check_integer("seed", seed, minimum=0)
    if seed >= _SEEDS:
        raise ConfigurationError(f"'seed' must be below 2**32 (got {seed}).")


def is_encodable(text: str) -> bool:
    """Tell whether a text is Unicode throughout: no half of a surrogate pair stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def explained(error: ValidationError) -> DatasetError:
    """Turn pydantic's report into one sentence with the ids at fault."""
    faults = error.errors(include_url=False, include_input=True)
    places = [
        f"{'.'.join(str(part) for part in fault['loc'])} "
        f"({'missing' if fault['type'] == 'missing' else type(fault['input']).__name__})"
        for fault in faults
    ]
    return DatasetError(
        "A dataset maps string ids to string texts, and query ids to lists of document ids; "
        f"{len(faults):,} places do not: {shown(places)}. Convert or remove them."
    )


def _check_document_ids(
    field: str,
    ids: Mapping[str, Sequence[str]],
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
) -> None:
    _reject(
        [
            f"{docid} (of query {qid})"
            for qid in queries
            for docid in ids.get(qid, ())
            if docid not in corpus
        ],
        f"{{n}} document ids in '{field}' are not in the corpus: {{ids}}. Add the documents "
        f"to 'corpus' or remove the ids.",
    )


def _reject(offending: list[str], message: str) -> None:
    if offending:
        raise DatasetError(message.format(n=f"{len(offending):,}", ids=shown(offending)))
