"""The exceptions of this package.

Each one is also the built-in exception that a caller would expect, so that code which knows
nothing of this package can still catch it::

    FinetuningError
    ├── DatasetError          (ValueError)    queries, corpus or relevance do not fit together
    │   └── DatasetFileError                  a file holds no dataset
    │       └── MissingDatasetFileError (FileNotFoundError)   or is not there
    ├── ConfigurationError    (ValueError)    an argument has a value that can't work
    ├── ModelFolderError      (ValueError)    a folder holds no model, or not the one needed
    ├── OutputError           (OSError)       a place can't be written to
    ├── EncodingError         (RuntimeError)  an embedding model returned unusable vectors
    ├── TrainingError         (RuntimeError)  training can't go on, e.g. the loss is NaN
    ├── GenerationError       (RuntimeError)  an LLM gave no usable questions
    └── MissingExtraError     (ImportError)   an optional dependency is not installed
"""

import importlib
from collections.abc import Iterable
from types import ModuleType


class FinetuningError(Exception):
    """Base of every error that this package raises itself."""


class DatasetError(FinetuningError, ValueError):
    """Queries, corpus and relevance do not fit together."""


class DatasetFileError(DatasetError):
    """A file holds no dataset, or only a part of one."""


class MissingDatasetFileError(DatasetFileError, FileNotFoundError):
    """There is no file of that name."""


class ConfigurationError(FinetuningError, ValueError):
    """An argument has a value that can't work."""


class ModelFolderError(FinetuningError, ValueError):
    """A folder holds no model, or not the one that is needed."""


class OutputError(FinetuningError, OSError):
    """A place can't be written to."""


class EncodingError(FinetuningError, RuntimeError):
    """An embedding model returned vectors that can't be used."""


class TrainingError(FinetuningError, RuntimeError):
    """Training can't go on."""


class GenerationError(FinetuningError, RuntimeError):
    """An LLM gave no usable questions."""


class MissingExtraError(FinetuningError, ImportError):
    """An optional dependency is not installed."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say exactly how to install it.

    Args:
        module: The module's import name.
        extra: The extra of this package that brings it.
        purpose: What needs it, as the subject of a sentence ("Plotting a report").

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs '{module}', which is not installed. Install it with: "
            f"pip install 'llama-index-finetuning-embeddings[{extra}]'"
        ) from error


def shown(ids: Iterable[str], *, limit: int = 5) -> str:
    """Name the first few ids of a list for an error message, and count the rest."""
    ids = list(ids)
    head = ", ".join(repr(one) for one in ids[:limit])
    return head if len(ids) <= limit else f"{head} and {len(ids) - limit:,} more"
