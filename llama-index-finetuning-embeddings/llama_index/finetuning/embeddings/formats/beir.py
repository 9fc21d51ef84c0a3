"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

The layout of Thakur et al., BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of
Information Retrieval Models (2021), which MTEB and many public collections share.
"""

import csv
import json
import logging
import math
import os
import shutil
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

logger = logging.getLogger(__name__)

_HEADER = ("query-id", "corpus-id", "score")


def read_beir(folder: str | os.PathLike[str], split: str | None) -> Contents:
    """Read a folder; see ``EmbeddingQAFinetuneDataset.from_beir``.

    Raises:
        DatasetFileError: A file is missing or holds something else.
        ConfigurationError: The folder has no such split, or several and none was named.
    """
    root = Path(folder)
    judgements = list(_read_qrels(_qrels_file(root, split)))
    return judged(_read_queries(root), _read_corpus(root), judgements)


def beir_relevance(
    folder: str | os.PathLike[str], split: str | None = None
) -> dict[str, dict[str, float]]:
    """Read the grades of a BEIR folder, for the ``relevance`` of an evaluation.

    Args:
        folder: The folder.
        split: The name of the file in ``qrels``; needed when there are several.

    Returns:
        Query id to document id to grade, of the queries with a grade above 0; grades below 0
        are 0.

    Raises:
        DatasetFileError: The file is missing or holds something else.
        ConfigurationError: There is no such split, or several and none was named.
    """
    grades = _by_query(_read_qrels(_qrels_file(Path(folder), split)))
    return {
        qid: {docid: max(grade, 0.0) for docid, grade in found.items()}
        for qid, found in grades.items()
        if max(found.values()) > 0
    }


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
        DatasetError: An id can't be held by a table of text, or the folder has other splits that
            this one can't be added to.
        OutputError: The folder can't be written.
    """
    if split in ("", ".", "..") or any(one in split for one in "/\\\0"):
        raise ConfigurationError(f"'split' must be a plain name, such as 'test' (got {split!r}).")
    unfit = [one for ids in (queries, corpus) for one in ids if "\0" in one]
    if unfit:
        raise DatasetError(
            f"{len(unfit):,} ids hold the character NUL, which BEIR's tables can't: {shown(unfit)}."
        )
    root = Path(folder)
    known = _known_queries(root, split, queries, corpus)
    with atomic_folder(folder) as new:
        # Other splits, and what else somebody put beside them, stay.
        if (root / "qrels").is_dir():
            shutil.copytree(root / "qrels", new / "qrels", symlinks=True)
            # Where it is a link, what it leads to is not to be written over.
            (new / "qrels" / f"{split}.tsv").unlink(missing_ok=True)
        else:
            (new / "qrels").mkdir()
        lines = ({"_id": i, "text": t} for i, t in queries.items() if i not in (known or ()))
        if known is None:
            documents = ({"_id": i, "title": "", "text": t} for i, t in corpus.items())
            _write_lines(new / "corpus.jsonl", documents)
        else:
            # The corpus is carried over, with its titles and whatever else a line holds.
            old = (root / "queries.jsonl").read_bytes().split(b"\n")
            kept = (one for one in old if one.strip() and str(json.loads(one)["_id"]) in known)
            (new / "queries.jsonl").write_bytes(b"".join(one + b"\n" for one in kept))
        _write_lines(new / "queries.jsonl", lines)
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


def _known_queries(
    root: Path, split: str, queries: Mapping[str, str], corpus: Mapping[str, str]
) -> Mapping[str, str] | None:
    """Return the queries that stay in a folder which these can be added to: it has the same corpus.

    Where it has no other splits, a query stays only if it is one of these.

    Raises:
        DatasetError: They can't, and the folder has other splits.
    """
    splits = _qrels(root)
    if not splits:
        return None
    shared = splits.keys() != {split}
    try:
        known, documents = _read_queries(root), _read_corpus(root)
    except DatasetFileError:
        if shared:
            raise
        return None
    # A dataset leaves out documents without a text.
    same = {docid: text for docid, text in documents.items() if text.strip()} == corpus
    if same and not shared:
        return {qid: text for qid, text in known.items() if queries.get(qid) == text}
    if same and all(known.get(qid, text) == text for qid, text in queries.items()):
        return known
    if shared:
        raise DatasetError(
            f"{str(root)!r} holds other splits, with another corpus or other texts of the same "
            "queries: what they mean would change. Write this split to a folder of its own."
        )
    return None


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
    grades = _by_query(judgements)
    named = {docid for found in grades.values() for docid in found}
    graded = sum(grade > 1 for found in grades.values() for grade in found.values())
    if graded:
        logger.warning(
            "%d judgements have a grade above 1, which the dataset does not keep: there a document "
            "is relevant or not. To evaluate with grades pass them as 'relevance'; "
            "beir_relevance reads those of a BEIR folder.",
            graded,
        )
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


def _by_query(judgements: Iterable[Judgement]) -> dict[str, dict[str, float]]:
    grades: dict[str, dict[str, float]] = {}
    for qid, docid, grade in judgements:
        grades.setdefault(qid, {})[docid] = grade
    return grades


def document_text(document: Mapping[str, Any]) -> str:
    """Join a document's title, where it has one, and its text."""
    title, text = str(document.get("title") or ""), text_or_empty(document["text"])
    return f"{title} {text}" if title.strip() else text


def text_or_empty(value: Any) -> str:
    """Return a text; a null, as public collections have, is an empty one and no word."""
    return "" if value is None else str(value)


def _qrels(root: Path) -> dict[str, Path]:
    """Return the files of judgements by their splits."""
    try:
        return {path.stem: path for path in sorted((root / "qrels").glob("*.tsv"))}
    except (OSError, ValueError) as error:
        raise DatasetFileError(f"{str(root)!r} can't be read: {error}.") from error


def _read_queries(root: Path) -> dict[str, str]:
    return {one["_id"]: one["text"] for one in _read_lines(root / "queries.jsonl")}


def _read_corpus(root: Path) -> dict[str, str]:
    return {one["_id"]: document_text(one) for one in _read_lines(root / "corpus.jsonl")}


def _qrels_file(root: Path, split: str | None) -> Path:
    files = _qrels(root)
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
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{encode(entry)}\n" for entry in entries)


def _read_qrels(path: Path) -> Iterator[Judgement]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.reader(stream, delimiter="\t"), start=1):
                if not row or (number == 1 and tuple(row) == _HEADER):
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
