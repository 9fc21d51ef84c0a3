"""What every format is read into: the fields of a dataset, and rows of texts turned into them."""

import hashlib
import reprlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from llama_index.finetuning.embeddings.errors import DatasetError, shown

# A query's text, the texts that answer it, and texts that do not.
Row: TypeAlias = tuple[Any, Sequence[Any], Sequence[Any]]


class Contents(NamedTuple):
    """The fields of a dataset, before they are checked."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str]]
    hard_negatives: dict[str, list[str]] | None


def content_id(text: str) -> str:
    """Return an id that depends on the text alone (128 bits of BLAKE2b, in hexadecimal)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def as_list(value: Any) -> list[Any]:
    """Return one text, a list of texts or None as a list."""
    if value is None:
        return []
    # What is no text, as the NaN of a data frame or a mapping, is for the check of the row to
    # refuse.
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def rows_of_pairs(pairs: Iterable[Sequence[Any]]) -> Iterator[Row]:
    """Yield ``(query, positives)`` and ``(query, positives, negatives)`` as rows.

    Raises:
        DatasetError: A pair has another shape.
    """
    for number, pair in enumerate(pairs, start=1):
        indexed = hasattr(pair, "__getitem__") and not isinstance(pair, str | Mapping)
        if not indexed or len(pair) not in (2, 3):
            raise DatasetError(
                "A pair must be (query, positive) or (query, positive, negative) (got "
                f"{reprlib.repr(pair)} as pair {number:,})."
            )
        yield pair[0], as_list(pair[1]), as_list(pair[2]) if len(pair) == 3 else []


def from_rows(rows: Iterable[Row], *, corpus: Iterable[str] = ()) -> Contents:
    """Give texts their ids and merge what is equal.

    Rows of the same query become one query. A document that is relevant in one row and a negative
    of the same query in another one is relevant.

    Args:
        rows: Query, relevant texts, negatives.
        corpus: Further documents, that no row names.

    Raises:
        DatasetError: Rows have no query, no relevant text, or something that is no text.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    relevant: defaultdict[str, dict[str, None]] = defaultdict(dict)
    negative: defaultdict[str, dict[str, None]] = defaultdict(dict)
    faulty = []
    for number, row in enumerate(rows, start=1):
        if not is_whole(row):
            faulty.append(number)
            continue
        query, positives, negatives = row
        query_id = content_id(query)
        queries[query_id] = query
        relevant[query_id].update(dict.fromkeys(_added(documents, positives)))
        negative[query_id].update(dict.fromkeys(_added(documents, negatives)))
    if faulty:
        raise faulty_rows(faulty)
    if isinstance(corpus, str | Mapping):
        raise DatasetError(
            "'corpus' must be a list of texts, whose ids are made from them (got "
            f"{type(corpus).__name__})."
        )
    further = list(corpus)
    if not all(map(_is_text, further)):
        raise DatasetError("'corpus' must hold texts that are not empty. Remove the others.")
    _added(documents, further)
    hard_negatives = {
        qid: kept
        for qid, found in negative.items()
        if (kept := [docid for docid in found if docid not in relevant[qid]])
    }
    return Contents(
        queries,
        documents,
        {qid: list(found) for qid, found in relevant.items()},
        hard_negatives or None,
    )


def is_whole(row: Row) -> bool:
    """Tell whether a row has a query and a relevant text, and nothing that is no text."""
    query, positives, negatives = row
    return bool(positives) and all(map(_is_text, (query, *positives, *negatives)))


def faulty_rows(numbers: Sequence[int]) -> DatasetError:
    """Return the error that names the rows which are not whole, counted from 1."""
    return DatasetError(
        f"{len(numbers):,} rows lack a query or a relevant text, or hold one that is empty or "
        f"no string: rows {shown(map(str, numbers))} (counted from 1). Remove them or fill "
        "them in."
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _added(documents: dict[str, str], texts: Sequence[str]) -> list[str]:
    ids = [content_id(text) for text in texts]
    documents.update(zip(ids, texts, strict=True))
    return ids
