"""Dataset files: one JSON object, of this package or of the retired one."""

import os
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import DatasetFileError
from llama_index.finetuning.embeddings.json_stream import read_json

_FIELDS = ("queries", "corpus", "relevant_docs")


def read_dataset_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a dataset, not checked beyond their names.

    Raises:
        DatasetFileError: The file is missing, cut off, or no dataset.
    """
    name = str(path)
    try:
        data = read_json(Path(path))
    except FileNotFoundError as error:
        raise DatasetFileError(f"There is no dataset file at {name!r}.") from error
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
    return data
