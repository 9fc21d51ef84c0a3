"""Dataset files that stand at the output path without a journal: read, and gone on with."""

import itertools
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import DatasetFileError
from llama_index.finetuning.embeddings.generation.journal import digest
from llama_index.finetuning.embeddings.json_stream import read_json
from llama_index.finetuning.embeddings.validation import is_encodable

_FIELDS = ("queries", "corpus", "relevant_docs")


def questions_of_file(
    path: Path, known: Set[tuple[str, str]]
) -> Iterator[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """Yield node id, text and questions (id, text) of each node that the journal does not know.

    A file of the retired package can hold what a dataset may not, such as empty texts and nodes
    without a question; those are left out, so that their nodes are asked about again.

    Args:
        path: The dataset file, which need not exist.
        known: The (node id, content hash) pairs that the journal knows.

    Raises:
        DatasetFileError: There is a file, but it is no dataset.
    """
    if not path.exists():
        return
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
        if (node_id, digest(text)) not in known:
            yield node_id, text, tuple(pairs)


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
