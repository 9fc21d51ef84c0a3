"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

The layout of Thakur et al., BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of
Information Retrieval Models (2021), which MTEB and many public collections share.
"""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    DatasetError,
    DatasetFileError,
    shown,
)
from llama_index.finetuning.embeddings.files import atomic_folder
from llama_index.finetuning.embeddings.formats.contents import Contents

# Query id, document id, grade; a grade of 0 or less is a judgement that the document is no answer.
Judgement: TypeAlias = tuple[str, str, float]

_HEADER = ("query-id", "corpus-id", "score")


def read_beir(folder: str | os.PathLike[str], split: str | None) -> Contents:
    """Read a folder; see ``EmbeddingQAFinetuneDataset.from_beir``.

    Raises:
        DatasetFileError: A file is missing or holds something else.
        ConfigurationError: The folder has no such split, or several and none was named.
    """
    root = Path(folder)
    judgements = list(_read_qrels(_qrels_file(root, split)))
    queries = {one["_id"]: one["text"] for one in _read_lines(root / "queries.jsonl")}
    corpus = {one["_id"]: document_text(one) for one in _read_lines(root / "corpus.jsonl")}
    return judged(queries, corpus, judgements)


def write_beir(
    folder: str | os.PathLike[str],
    split: str,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    judgements: Iterable[Judgement],
) -> None:
    """Write a folder; see ``EmbeddingQAFinetuneDataset.to_beir``.

    Raises:
        ConfigurationError: ``split`` can't be the name of a file.
        DatasetError: An id can't be held by a table of text.
        OutputError: The folder can't be written.
    """
    if split in ("", ".", "..") or any(one in split for one in "/\\\0"):
        raise ConfigurationError(f"'split' must be a plain name, such as 'test' (got {split!r}).")
    unfit = [one for ids in (queries, corpus) for one in ids if "\0" in one]
    if unfit:
        raise DatasetError(
            f"{len(unfit):,} ids hold the character NUL, which BEIR's tables can't: {shown(unfit)}."
        )
    with atomic_folder(folder) as new:
        (new / "qrels").mkdir()
        _write_lines(new / "queries.jsonl", ({"_id": i, "text": t} for i, t in queries.items()))
        _write_lines(
            new / "corpus.jsonl", ({"_id": i, "title": "", "text": t} for i, t in corpus.items())
        )
        with (new / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as stream:
            # The writer leaves a lone carriage return bare, where the reader ends a row.
            bare = any("\r" in one for ids in (queries, corpus) for one in ids)
            table = csv.writer(
                stream,
                delimiter="\t",
                lineterminator="\n",
                quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL,
            )
            table.writerow(_HEADER)
            table.writerows((qid, docid, f"{grade:g}") for qid, docid, grade in judgements)


def judgements_of(
    queries: Iterable[str],
    relevant_docs: Mapping[str, Sequence[str]],
    hard_negatives: Mapping[str, Sequence[str]],
) -> Iterator[Judgement]:
    """Yield each query's relevant documents with grade 1 and its hard negatives with grade 0."""
    for qid in queries:
        yield from ((qid, docid, 1) for docid in relevant_docs[qid])
        yield from ((qid, docid, 0) for docid in hard_negatives.get(qid, ()))


def judged(
    queries: Mapping[str, str], corpus: dict[str, str], judgements: Iterable[Judgement]
) -> Contents:
    """Turn graded judgements into relevance, best first, and hard negatives.

    Queries without a relevant document are left out: files of queries hold those of all splits.
    So are documents that nothing names and whose text is empty, which public collections have.
    """
    grades: dict[str, dict[str, float]] = {}
    named = set()
    for qid, docid, grade in judgements:
        grades.setdefault(qid, {})[docid] = grade
        named.add(docid)
    relevant, negative = {}, {}
    for qid, found in grades.items():
        best_first = sorted(found, key=found.__getitem__, reverse=True)
        if any(grade > 0 for grade in found.values()):
            relevant[qid] = [docid for docid in best_first if found[docid] > 0]
            negative[qid] = [docid for docid in best_first if found[docid] <= 0]
    strangers = [qid for qid in relevant if qid not in queries]
    if strangers:
        raise DatasetError(
            f"{len(strangers):,} judged queries have no text: {shown(strangers)}. Add them to the "
            "queries, or remove their judgements."
        )
    return Contents(
        {qid: text for qid, text in queries.items() if qid in relevant},
        {docid: text for docid, text in corpus.items() if text.strip() or docid in named},
        relevant,
        {qid: found for qid, found in negative.items() if found} or None,
    )


def document_text(document: Mapping[str, Any]) -> str:
    """Join a document's title, where it has one, and its text."""
    title, text = str(document.get("title") or ""), text_or_empty(document["text"])
    return f"{title} {text}" if title.strip() else text


def text_or_empty(value: Any) -> str:
    """Return a text; a null, as public collections have, is an empty one and no word."""
    return "" if value is None else str(value)


def _qrels_file(root: Path, split: str | None) -> Path:
    try:
        files = {path.stem: path for path in sorted((root / "qrels").glob("*.tsv"))}
    except (OSError, ValueError) as error:
        raise DatasetFileError(f"{str(root)!r} can't be read: {error}.") from error
    if not files:
        raise DatasetFileError(f"{str(root)!r} is no BEIR folder: it has no qrels/*.tsv.")
    if split is None and len(files) > 1:
        raise ConfigurationError(
            f"'split' must be in {tuple(files)}: {str(root)!r} has several (got None)."
        )
    split = next(iter(files)) if split is None else split
    if split not in files:
        raise ConfigurationError(f"'split' must be in {tuple(files)} (got {split!r}).")
    return files[split]


def _read_lines(path: Path) -> Iterator[dict[str, str]]:
    number = 0
    try:
        # Only these end a line: text may hold other characters that str.splitlines cuts at.
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            for line in stream:
                number += 1
                if line.strip():
                    yield _entry(json.loads(line))
    except OSError as error:
        raise DatasetFileError(f"{str(path)!r} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetFileError(f"{str(path)!r} is not UTF-8 text ({error}).") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetFileError(
            f"Line {number:,} of {str(path)!r} is no JSON object with '_id' and 'text' ({error!r})."
        ) from error


def _entry(line: Any) -> dict[str, str]:
    """Return what counts of a line; numbers as ids and nulls as texts occur in the wild."""
    id_, text, title = line["_id"], line["text"], line.get("title")
    entry = {
        "_id": str(id_) if isinstance(id_, int) else id_,
        "text": "" if text is None else text,
        "title": "" if title is None else title,
    }
    for name, value in entry.items():
        if not isinstance(value, str):
            raise TypeError(f"{name!r} is no text")
    return entry


def _write_lines(path: Path, entries: Iterable[dict[str, str]]) -> None:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{encode(entry)}\n" for entry in entries)


def _read_qrels(path: Path) -> Iterator[Judgement]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.reader(stream, delimiter="\t"), start=1):
                if number == 1 and tuple(row) == _HEADER:
                    continue
                query_id, document_id, grade = row
                if math.isnan(float(grade)):
                    raise ValueError(f"got {grade}")
                yield query_id, document_id, float(grade)
    except OSError as error:
        raise DatasetFileError(f"{str(path)!r} can't be read: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise DatasetFileError(
            f"Row {number:,} of {str(path)!r} must be a query id, a document id and a number "
            f"({error})."
        ) from error
