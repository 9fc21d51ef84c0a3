"""Argilla records: pairs or triplets of texts, or pairs that people labelled."""

import logging
import reprlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError
from llama_index.finetuning.embeddings.formats.contents import (
    Contents,
    Row,
    faulty_rows,
    from_rows,
    is_whole,
)
from llama_index.finetuning.embeddings.formats.huggingface import (
    POSITIVE_COLUMNS,
    QUERY_COLUMNS,
    found_column,
    found_negative_columns,
    rows_of,
)

logger = logging.getLogger(__name__)


def read_argilla(
    records: Iterable[Any],
    *,
    query_field: str | None,
    positive_field: str | None,
    negative_fields: str | Sequence[str] | None,
    label_question: str | None,
    relevant_labels: Collection[Any],
) -> Contents:
    """Read records; see ``EmbeddingQAFinetuneDataset.from_argilla``.

    Raises:
        ConfigurationError: Fields were not found, or the question has several labels at once.
        DatasetError: There are no records, none is labelled relevant, or texts are missing.
    """
    if isinstance(relevant_labels, str) or not isinstance(relevant_labels, Iterable):
        relevant_labels = (relevant_labels,)
    records = list(records)
    if not records:
        raise DatasetError("'records' has no records.")
    entries = [dict(_part(record, "fields")) for record in records]
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    query = found_column(columns, query_field, "query_field", QUERY_COLUMNS)
    positive = found_column(columns, positive_field, "positive_field", POSITIVE_COLUMNS)
    negatives = found_negative_columns(columns, negative_fields, "negative_fields")
    rows = list(rows_of(entries, query, positive, negatives))
    if label_question is None:
        return from_rows(rows)
    labels = [_label(record, label_question) for record in records]
    # Before records become one row for each query, whose number would be another.
    pairs = enumerate(zip(rows, labels, strict=True), start=1)
    faulty = [number for number, (row, label) in pairs if label is not None and not is_whole(row)]
    if faulty:
        raise faulty_rows(faulty)
    return from_rows(_by_label(rows, labels, label_question, relevant_labels))


def _by_label(
    rows: Iterable[Row], labels: Sequence[Any], question: str, relevant_labels: Collection[Any]
) -> list[Row]:
    """Take the documents of records with another label as negatives of their query."""
    by_query: dict[Any, tuple[list[Any], list[Any]]] = {}
    for (query, documents, negatives), label in zip(rows, labels, strict=True):
        if label is not None:
            relevant, wrong = by_query.setdefault(query, ([], []))
            (relevant if label in relevant_labels else wrong).extend(documents)
            wrong.extend(negatives)
    found: list[Row] = [(query, *sides) for query, sides in by_query.items() if sides[0]]
    if not found:
        raise DatasetError(
            f"No record is relevant: the labels of {question!r} must be in {relevant_labels!r} "
            f"(got {dict(Counter(map(str, labels)))})."
        )
    unlabelled, useless = labels.count(None), len(by_query) - len(found)
    if unlabelled or useless:
        logger.warning(
            "Left out %d records without one label to go by, and %d queries without a relevant "
            "document.",
            unlabelled,
            useless,
        )
    return found


def _label(record: Any, question: str) -> Any:
    """Return what most people answered, else what was suggested; None when there is no such."""
    responses = _single(_answers(_part(record, "responses"), question), question)
    votes = Counter(responses).most_common(2)
    if votes:
        tied = len(votes) == 2 and votes[0][1] == votes[1][1]
        return None if tied else votes[0][0]
    suggestions = _single(_answers(_part(record, "suggestions"), question), question)
    return next(suggestions, None)


def _single(labels: Iterable[Any], question: str) -> Iterator[Any]:
    """Yield the labels, each of which must be one: those of some kinds of questions are lists."""
    for label in labels:
        if not isinstance(label, Hashable):
            raise ConfigurationError(
                "'label_question' must be a question with one label for each answer (got "
                f"{question!r}, which was answered {reprlib.repr(label)})."
            )
        yield label


def _answers(answers: Any, question: str) -> Iterator[Any]:
    if isinstance(answers, Mapping):
        given = answers.get(question) or []
        for one in [given] if isinstance(given, Mapping) else given:
            yield one["value"]
        return
    for one in answers:
        # A discarded response has a value too; a suggestion has no status.
        status = getattr(getattr(one, "status", None), "value", "submitted")
        if one.question_name == question and status == "submitted":
            yield one.value


def _part(record: Any, name: str) -> Any:
    """Take a part of a record, which may be a dictionary as ``records.to_list()`` gives."""
    return record.get(name) or {} if isinstance(record, Mapping) else getattr(record, name)
