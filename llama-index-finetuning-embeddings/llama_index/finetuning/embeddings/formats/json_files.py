"""Dataset files: one JSON object, of this package or of the retired one."""

import logging
import os
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import (
    DatasetFileError,
    MissingDatasetFileError,
    shown,
)
from llama_index.finetuning.embeddings.json_stream import read_json

logger = logging.getLogger(__name__)

_FIELDS = ("queries", "corpus", "relevant_docs")


def read_dataset_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a dataset, not checked beyond their names.

    Documents without text, such as the blank pages that the retired package kept and asked about,
    are left out, with the queries that have no other document.

    Raises:
        DatasetFileError: The file is missing, cut off, or no dataset.
    """
    name = str(path)
    try:
        data = read_json(Path(path))
    except FileNotFoundError as error:
        raise MissingDatasetFileError(f"There is no dataset file at {name!r}.") from error
    except OSError as error:
        raise DatasetFileError(f"{name!r} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetFileError(f"{name!r} is not UTF-8 text ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise DatasetFileError(
            f"{name!r} holds no whole JSON ({error}). It may have been cut off while it was "
            "written or copied: write it again."
        ) from error
    if not isinstance(data, dict) or not all(field in data for field in _FIELDS):
        found = sorted(data)[:5] if isinstance(data, dict) else type(data).__name__
        raise DatasetFileError(
            f"{name!r} is no dataset: it must be a JSON object with {', '.join(_FIELDS)} "
            f"(found {found})."
        )
    return _without_blank_documents(data, name)


def _without_blank_documents(data: dict[str, Any], name: str) -> dict[str, Any]:
    fields = {**data, "hard_negatives": data.get("hard_negatives") or {}}
    if not all(isinstance(fields[one], dict) for one in (*_FIELDS, "hard_negatives")):
        return data
    blank = {
        one: text
        for one, text in data["corpus"].items()
        if isinstance(text, str) and not text.strip()
    }
    if not blank:
        return data

    def others(ids: Any) -> Any:
        return [one for one in ids if str(one) not in blank] if isinstance(ids, list) else ids

    relevant = {qid: others(ids) for qid, ids in data["relevant_docs"].items()}
    pointless = {qid for qid, ids in relevant.items() if not ids and data["relevant_docs"][qid]}
    logger.warning(
        "%d documents of %r have no text and are left out, with the %d queries that have no other: "
        "%s",
        len(blank),
        name,
        len(pointless),
        shown(blank),
    )
    return {
        **data,
        "queries": {qid: text for qid, text in data["queries"].items() if qid not in pointless},
        "corpus": {docid: text for docid, text in data["corpus"].items() if docid not in blank},
        "relevant_docs": {qid: ids for qid, ids in relevant.items() if qid not in pointless},
        "hard_negatives": {qid: others(ids) for qid, ids in fields["hard_negatives"].items()}
        or None,
    }
