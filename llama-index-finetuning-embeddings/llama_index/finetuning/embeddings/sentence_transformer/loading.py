"""Reading a model for its weights, to train or to mix them."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from llama_index.embeddings.huggingface.utils import get_query_instruct_for_model_name
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.model_folder import (
    SIDES,
    check_names_no_code,
    has_two_sides,
)

logger = logging.getLogger(__name__)

_NO_INSTRUCTION = (
    "HuggingFaceEmbedding puts an instruction before each query of %r; this training does not, so "
    "that base and result are without it. To train, score and serve with it, pass query_prompt=%r"
)
_NO_PROMPTS = (
    "The folder of %r names prompts (query: %r, document: %r), which HuggingFaceEmbedding does not "
    "use and this training does not either: base and result are without them. To train, score and "
    "serve with them, pass query_prompt=%r and text_prompt=%r"
)


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


def check_trainable(model: SentenceTransformer, model_id: str) -> None:
    """Make sure that a model is one, and has weights to train.

    Raises:
        ConfigurationError: It is not, or has none.
    """
    if any(isinstance(module, upstream.router()) for module in model.children()):
        raise ConfigurationError(
            f"'model_id' must be one model (got {model_id!r}, a Router with one for "
            "queries and one for documents). Give one of the two; before an index that is to "
            f"stay, its folder {SIDES[1]!r}, with train='query'."
        )
    if not any(weights.requires_grad for weights in model.parameters()):
        raise ConfigurationError(
            f"'model_id' must have weights to train (got {model_id!r}, where all "
            "are frozen). Merge an adapter into its model first."
        )


def check_embeds_documents(model_id: str) -> None:
    """Make sure that a folder is not one that was tuned for queries alone.

    Raises:
        ConfigurationError: It is.
    """
    folder = Path(model_id).resolve()
    if folder.name == SIDES[0] and has_two_sides(folder.parent):
        raise ConfigurationError(
            f"'model_id' must be the model that embeds the documents (got {model_id!r}, "
            "which was tuned for queries alone: an index that it stands before was embedded "
            f"with {str(folder.with_name(SIDES[1]))!r}). Give that one."
        )


def warn_of_prompts(
    model_id: str,
    own: Mapping[str, str | None],
    *,
    query_prompt: str | None,
    text_prompt: str | None,
) -> None:
    """Say where a model was made for prompts that its training is without.

    Args:
        model_id: The model's name or folder.
        own: The prompts that its folder names.
        query_prompt: What the training puts before queries; None where nothing was said.
        text_prompt: Likewise before documents.
    """
    instruction = get_query_instruct_for_model_name(model_id)
    if query_prompt is None and instruction:
        logger.warning(_NO_INSTRUCTION, model_id, instruction)
        return
    names = (("query",), ("document", "passage"))
    found = [next((p for name in side if (p := own.get(name))), "") for side in names]
    if query_prompt is None and text_prompt is None and any(found):
        logger.warning(_NO_PROMPTS, model_id, *found, *found)
