"""Dataset files that stand at the output path without a journal: read, and gone on with."""

from collections.abc import Iterator, Set
from pathlib import Path

from llama_index.finetuning.embeddings.errors import DatasetFileError
from llama_index.finetuning.embeddings.files import read_json_object
from llama_index.finetuning.embeddings.generation.journal import digest

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
        data = read_json_object(path)
    except (OSError, ValueError) as error:
        raise DatasetFileError(
            f"{str(path)!r} is no whole dataset file ({error}) and is not overwritten. Move it "
            "away, or choose another 'output_path'."
        ) from error
    if not all(isinstance(data.get(field), dict) for field in _FIELDS):
        raise DatasetFileError(
            f"{str(path)!r} is no dataset (it must hold {', '.join(_FIELDS)}) and is not "
            "overwritten. Move it away, or choose another 'output_path'."
        )
    queries, corpus, relevant_docs = (data[field] for field in _FIELDS)
    questions: dict[str, list[tuple[str, str]]] = {}
    for query_id, query in queries.items():
        for node_id in relevant_docs.get(query_id, ()):
            if str(query).strip():
                questions.setdefault(node_id, []).append((query_id, str(query)))
    for node_id, pairs in questions.items():
        text = str(corpus.get(node_id, ""))
        if text.strip() and (node_id, digest(text)) not in known:
            yield node_id, text, tuple(pairs)
