"""Hugging Face ``datasets``: rows of texts, or the three tables of retrieval collections."""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError
from llama_index.finetuning.embeddings.formats.beir import (
    Judgement,
    document_text,
    judged,
    text_or_empty,
)
from llama_index.finetuning.embeddings.formats.contents import Contents, Row, as_list, from_rows

Layout = Literal["retrieval", "pairs", "triplets"]

_TABLES = ("corpus", "queries", "qrels")
QUERY_COLUMNS = ("anchor", "query", "question")
POSITIVE_COLUMNS = ("positive", "pos", "context", "document", "passage", "answer")
_NEGATIVE_COLUMNS = ("negative", "neg", "negatives", "hard_negatives")
_NUMBERED_NEGATIVE = "negative_"


def read_hf_dataset(
    data: Any,
    *,
    query_column: str | None,
    positive_column: str | None,
    negative_columns: str | Sequence[str] | None,
) -> Contents:
    """Read rows or tables; see ``EmbeddingQAFinetuneDataset.from_hf_dataset``.

    Raises:
        ConfigurationError: Columns were not found, or ``data`` holds several splits.
        DatasetError: Rows lack texts.
    """
    if isinstance(data, Mapping):
        given = (query_column, positive_column, negative_columns)
        if not set(_TABLES) <= data.keys() or any(column is not None for column in given):
            raise ConfigurationError(
                f"'data' holds several tables ({', '.join(map(str, data))}). Pass one of them, or "
                f"tables named {', '.join(_TABLES)} and no column names."
            )
        return _read_tables(data)
    data = _rows(data)
    if not hasattr(data, "__len__"):  # a dataset that is streamed
        data = list(data)
    if len(data) == 0:
        raise DatasetError("'data' has no rows.")
    columns = getattr(data, "column_names", None)
    if columns is None:
        other = next((row for row in data if not isinstance(row, Mapping)), None)
        if other is not None:
            raise ConfigurationError(
                "'data' must be a Dataset or a list of dictionaries (got a row "
                f"{reprlib.repr(other)} of {type(data).__name__})."
            )
        # Any dictionary may lack some columns, the first as well.
        columns = list(dict.fromkeys(name for row in data for name in row))
    query = found_column(columns, query_column, "query_column", QUERY_COLUMNS)
    positive = found_column(columns, positive_column, "positive_column", POSITIVE_COLUMNS)
    negatives = found_negative_columns(columns, negative_columns, "negative_columns")
    return from_rows(rows_of(data, query, positive, negatives))


def rows_of(
    entries: Iterable[Mapping[str, Any]], query: str, positive: str, negatives: Sequence[str]
) -> Iterator[Row]:
    """Yield each entry's query, its relevant texts and its negatives."""
    for entry in entries:
        wrong = [text for column in negatives for text in as_list(entry.get(column))]
        yield entry.get(query), as_list(entry.get(positive)), wrong


def found_column(
    columns: Sequence[str], given: str | None, argument: str, known: Sequence[str]
) -> str:
    """Return the column that was given, or the first known one that is there.

    Raises:
        ConfigurationError: There is none.
    """
    wanted = known if given is None else (given,)
    for column in wanted:
        if column in columns:
            return column
    raise ConfigurationError(
        f"'{argument}' must be in {tuple(columns)} (got {given!r}"
        + (f"; none of {tuple(known)} is there)." if given is None else ").")
    )


def found_negative_columns(
    columns: Sequence[str], given: str | Sequence[str] | None, argument: str
) -> list[str]:
    """Return the columns of negatives that were given, or all known ones that are there.

    Raises:
        ConfigurationError: One that was given is not there.
    """
    if given is not None:
        return [found_column(columns, one, argument, ()) for one in as_list(given)]
    return [
        column
        for column in columns
        if column in _NEGATIVE_COLUMNS
        or (column.startswith(_NUMBERED_NEGATIVE) and column[len(_NUMBERED_NEGATIVE) :].isdigit())
    ]


def to_hf_tables(
    queries: Mapping[str, str], corpus: Mapping[str, str], judgements: Iterable[Judgement]
) -> Any:
    """Return the three tables as a ``DatasetDict``."""
    from datasets import Dataset, DatasetDict

    query_ids, document_ids, grades = zip(*judgements, strict=True)
    return DatasetDict(
        {
            "corpus": Dataset.from_dict({"_id": list(corpus), "text": list(corpus.values())}),
            "queries": Dataset.from_dict({"_id": list(queries), "text": list(queries.values())}),
            "qrels": Dataset.from_dict(
                {"query-id": query_ids, "corpus-id": document_ids, "score": grades}
            ),
        }
    )


def to_hf_rows(
    layout: Layout,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    relevant_docs: Mapping[str, Sequence[str]],
    hard_negatives: Mapping[str, Sequence[str]],
) -> Any:
    """Return pairs or triplets of texts as a ``Dataset``.

    Raises:
        DatasetError: Triplets are asked for and there are no hard negatives.
    """
    from datasets import Dataset

    pairs = [(qid, docid) for qid in queries for docid in relevant_docs[qid]]
    if layout == "pairs":
        return Dataset.from_dict(
            {
                "anchor": [queries[qid] for qid, _ in pairs],
                "positive": [corpus[docid] for _, docid in pairs],
            }
        )
    triplets = [(*pair, other) for pair in pairs for other in hard_negatives.get(pair[0], ())]
    if not triplets:
        raise DatasetError(
            "The dataset has no hard negatives to make triplets of. Mine them with "
            "mine_hard_negatives, or use layout='pairs'."
        )
    return Dataset.from_dict(
        {
            "anchor": [queries[qid] for qid, _, _ in triplets],
            "positive": [corpus[docid] for _, docid, _ in triplets],
            "negative": [corpus[docid] for _, _, docid in triplets],
        }
    )


def check_layout(layout: str) -> None:
    """Make sure that a layout is known.

    Raises:
        ConfigurationError: It is not.
    """
    if layout not in get_args(Layout):
        raise ConfigurationError(f"'layout' must be in {get_args(Layout)} (got {layout!r}).")


def _read_tables(tables: Mapping[str, Any]) -> Contents:
    queries, corpus, qrels = (_rows(tables[name]) for name in ("queries", "corpus", "qrels"))
    try:
        return judged(
            {str(one["_id"]): text_or_empty(one["text"]) for one in queries},
            {str(one["_id"]): document_text(one) for one in corpus},
            (
                (str(one["query-id"]), str(one["corpus-id"]), _grade(one["score"], number))
                for number, one in enumerate(qrels, start=1)
            ),
        )
    except KeyError as error:
        raise ConfigurationError(
            f"The tables lack the column {error}: 'corpus' and 'queries' have '_id' and 'text', "
            "'qrels' has 'query-id', 'corpus-id' and 'score'."
        ) from error


def _rows(table: Any) -> Any:
    """Return the rows of a data frame as dictionaries; everything else has them already.

    A data frame has NaN or NA where a table has None.
    """
    if not hasattr(table, "itertuples"):
        return table
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _grade(score: Any, number: int) -> float:
    try:
        grade = float(score)
    except (TypeError, ValueError):
        grade = math.nan
    if math.isnan(grade):
        raise DatasetError(
            f"'score' must be a number (got {score!r} in row {number:,} of 'qrels')."
        )
    return grade
