"""Dataset files that stand at the output path already: read, gone on with, and kept."""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import DatasetFileError
from llama_index.finetuning.embeddings.files import output_errors
from llama_index.finetuning.embeddings.generation.journal import digest
from llama_index.finetuning.embeddings.json_stream import read_json
from llama_index.finetuning.embeddings.validation import is_encodable

_FIELDS = ("queries", "corpus", "relevant_docs")


def read_older(path: Path) -> dict[str, Any] | None:
    """Return what a dataset file holds, or None if there is no file.

    Raises:
        DatasetFileError: There is a file, but it is no dataset.
    """
    if not path.exists():
        return None
    try:
        data = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetFileError(
            f"{str(path)!r} is no whole dataset file ({error}) and is not overwritten. Move it "
            "away, or choose another 'output_path'."
        ) from error
    if not _is_dataset(data):
        raise DatasetFileError(
            f"{str(path)!r} is no dataset (it must hold {', '.join(_FIELDS)}) and is not "
            "overwritten. Move it away, or choose another 'output_path'."
        )
    return dict(data)


def questions_of(
    data: dict[str, Any], known: Set[str]
) -> Iterator[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """Yield node id, text and questions (id, text) of each node that the journal does not know.

    A file of the retired package can hold what a dataset may not, such as empty texts and nodes
    without a question; those are left out, so that their nodes are asked about again.

    Args:
        data: What `read_older` returned.
        known: The content hashes that the journal knows.
    """
    queries, corpus, relevant_docs = (data[field] for field in _FIELDS)
    questions: dict[str, list[tuple[str, str]]] = {}
    for query_id, query in queries.items():
        for node_id in relevant_docs.get(query_id, ()):
            if query.strip() and is_encodable(query_id + query):
                questions.setdefault(node_id, []).append((query_id, query))
    for node_id, pairs in questions.items():
        text = corpus.get(node_id, "")
        if not text.strip() or not is_encodable(node_id + text):
            continue
        if digest(text) not in known:
            yield node_id, text, tuple(pairs)


def holds_more(
    data: dict[str, Any], texts: Collection[str], questions: Iterable[tuple[str, str]]
) -> bool:
    """Tell whether a file holds more than these texts and these questions about them.

    Ids do not count: a splitter gives new ones in every run.

    Args:
        data: What `read_older` returned.
        texts: The texts.
        questions: Each question with its text.
    """
    if any(data[field] for field in data.keys() - {*_FIELDS, "mode"}):  # hard negatives
        return True
    queries, corpus, relevant_docs = (data[field] for field in _FIELDS)
    known, held = set(questions), set(texts)
    return any(text.strip() and text not in held for text in corpus.values()) or any(
        query.strip() and (query, corpus.get(node_id)) not in known
        for query_id, query in queries.items()
        for node_id in relevant_docs.get(query_id) or [""]
    )


def set_aside(path: Path) -> Path:
    """Rename a file to the first free ``<stem>.bak<suffix>``, ``<stem>.bak2<suffix>``, ....

    Raises:
        OutputError: It can't be renamed.
    """
    path = path.resolve()
    with output_errors(path):
        for number in itertools.count(1):
            ending = "" if number == 1 else str(number)
            place = path.with_name(f"{path.stem}.bak{ending}{path.suffix}")
            if not place.exists():
                path.rename(place)
                break
    return place


def is_set_aside(path: Path, *, of: Path) -> bool:
    """Tell whether a file has a name that `set_aside` gives."""
    stem, suffix = re.escape(of.stem), re.escape(of.suffix)
    named = re.fullmatch(rf"{stem}\.bak\d*{suffix}", path.name) is not None
    return named and path.parent == of.parent


def _is_dataset(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    fields = [data.get(field) for field in _FIELDS]
    if not all(isinstance(field, dict) for field in fields):
        return False
    queries, corpus, relevant_docs = (data[field] for field in _FIELDS)
    texts = itertools.chain(queries.values(), corpus.values())
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(ids, list) and all(isinstance(one, str) for one in ids)
        for ids in relevant_docs.values()
    )
