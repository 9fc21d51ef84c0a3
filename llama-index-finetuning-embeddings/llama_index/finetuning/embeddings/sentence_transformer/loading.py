"""Reading a model for its weights, to train or to mix them."""

import os
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.trust import check_names_no_code


def load_sentence_transformer(
    path: str | os.PathLike[str], *, trust_remote_code: bool, **kwargs: Any
) -> SentenceTransformer:
    """Load a Sentence Transformer for its weights.

    Args:
        path: A folder, or a model's name on the Hugging Face Hub.
        trust_remote_code: Run code that the folder brings.
        **kwargs: Further arguments of ``SentenceTransformer``.

    Raises:
        ModelFolderError: It can't be loaded, or names code of its own.
    """
    if not trust_remote_code:
        check_names_no_code(Path(path))
    try:
        return SentenceTransformer(os.fspath(path), trust_remote_code=trust_remote_code, **kwargs)
    except (ImportError, torch.cuda.OutOfMemoryError):
        raise  # no fault of the folder
    except Exception as error:  # no such model, no connection, damaged files
        raise ModelFolderError(
            f"The model {os.fspath(path)!r} can't be loaded ({type(error).__name__}: {error}). "
            "Give a folder, or a model's name on the Hugging Face Hub."
        ) from error
