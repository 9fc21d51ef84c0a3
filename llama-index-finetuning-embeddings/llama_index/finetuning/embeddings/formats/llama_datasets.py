"""LlamaIndex's ``LabelledRagDataset``: questions with the contexts that answer them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    DatasetError,
    DatasetFileError,
)
from llama_index.finetuning.embeddings.files import read_json_object
from llama_index.finetuning.embeddings.formats.contents import Contents, Row, from_rows


def read_labelled_rag_dataset(data: Any) -> Contents:
    """Read it; see ``EmbeddingQAFinetuneDataset.from_labelled_rag_dataset``.

    Raises:
        ConfigurationError: It is neither a LabelledRagDataset nor a path.
        DatasetFileError: The file holds something else.
        DatasetError: Examples lack their contexts.
    """
    if isinstance(data, str | os.PathLike):
        examples = _read_examples(Path(data))
    elif hasattr(data, "examples"):
        examples = data.examples
    else:
        raise ConfigurationError(
            "'data' must be a LabelledRagDataset, or the path of its JSON file (got "
            f"{type(data).__name__})."
        )
    if not examples:
        raise DatasetError("The LabelledRagDataset has no examples.")
    return from_rows(_rows(examples))


def _rows(examples: list[Any]) -> Iterator[Row]:
    for example in examples:
        fields = example if isinstance(example, dict) else vars(example)
        yield fields.get("query"), fields.get("reference_contexts") or [], []


def _read_examples(path: Path) -> list[dict[str, Any]]:
    try:
        examples = read_json_object(path)["examples"]
        if isinstance(examples, list) and all(isinstance(one, dict) for one in examples):
            return examples
        reason = "'examples' is no list of objects"
    except KeyError:
        reason = "it has no 'examples'"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise DatasetFileError(f"{str(path)!r} is no LabelledRagDataset: {reason}.")
