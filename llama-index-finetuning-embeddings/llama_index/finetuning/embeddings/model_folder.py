"""Folders of full models: one Sentence Transformer, or one for queries beside one for documents.

The second kind is a Sentence Transformers ``Router`` whose two routes are whole Sentence
Transformers in the folders ``query`` and ``document``: ``SentenceTransformer(folder)`` loads it
for ``encode_query`` and ``encode_document``, and each side loads by itself too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.errors import ModelFolderError

MODULES = "modules.json"
ROUTER = "router_config.json"
SIDES = ("query", "document")


def is_model(folder: Path) -> bool:
    """Tell whether a folder holds a Sentence Transformer of either kind."""
    return (folder / MODULES).is_file()


def has_two_sides(folder: Path) -> bool:
    """Tell whether a folder holds one model for queries and one for documents."""
    return (folder / ROUTER).is_file() and all(is_model(folder / side) for side in SIDES)


def open_model(folder: Path, settings: dict[str, Any]) -> BaseEmbedding:
    """Load a folder as a LlamaIndex embedding.

    Args:
        folder: The folder.
        settings: Arguments of ``HuggingFaceEmbedding``, for both models where there are two.

    Raises:
        ModelFolderError: It can't be loaded.
    """
    # A relative path could be the name of a model that LlamaIndex knows an instruction for.
    folder = folder.resolve()
    try:
        if not has_two_sides(folder):
            return open_one(str(folder), settings)
        query, document = (open_one(str(folder / side), settings) for side in SIDES)
    except Exception as error:  # whatever damage makes the reader fail
        raise ModelFolderError(
            f"The model in {str(folder)!r} can't be loaded ({type(error).__name__}: {error}). If "
            "the arguments are right, its files are damaged: write or copy the folder again."
        ) from error
    from llama_index.finetuning.embeddings.adapter_embedding import AsymmetricEmbeddingModel

    return AsymmetricEmbeddingModel(
        query, document, callback_manager=settings.get("callback_manager")
    )


def open_one(name: str, settings: Mapping[str, Any]) -> BaseEmbedding:
    """Load one Sentence Transformer, a folder or a name on the Hub, as a LlamaIndex embedding.

    Args:
        name: Its folder or name.
        settings: Arguments of ``HuggingFaceEmbedding``.
    """
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    if _is_static(Path(name)):
        from llama_index.finetuning.embeddings.unbounded import UnboundedHuggingFaceEmbedding

        return UnboundedHuggingFaceEmbedding(model_name=name, **settings)
    model: BaseEmbedding = HuggingFaceEmbedding(model_name=name, **settings)
    return model


def _is_static(folder: Path) -> bool:
    if not is_model(folder):
        return False
    modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
    return any(str(module.get("type")).endswith(".StaticEmbedding") for module in modules)
