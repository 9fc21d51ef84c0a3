"""Bring a finetuned model back from its folder alone."""

import logging
import os
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapters import AdapterDescription, describe_adapter_folder
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.manifest import read_manifest
from llama_index.finetuning.embeddings.model_folder import is_model, open_model, open_one

logger = logging.getLogger(__name__)

# What the Trainer writes into checkpoints alone.
_TRAINER_STATE = "trainer_state.json"
_OF_THE_ADAPTER = {"adapter_cls", "transform_query", "callback_manager"}
_SHARED = {"device", "embed_batch_size"}


def load_finetuned_model(
    path: str | os.PathLike[str], base_embed_model: BaseEmbedding | None = None, **kwargs: Any
) -> BaseEmbedding:
    """Load what an engine of this package wrote.

    An adapter's folder comes back as an `AdapterEmbeddingModel` over its base, which is loaded
    by the name and settings in the folder where it is a plain ``HuggingFaceEmbedding`` and none
    is given. A full model comes back as a ``HuggingFaceEmbedding`` with the prompts that it was
    trained with, which ``resolve_embed_model("local:...")`` would leave out; after
    ``train="query"`` as an `AsymmetricEmbeddingModel` of two.

    Args:
        path: The folder.
        base_embed_model: The model behind an adapter.
        **kwargs: Passed to the constructor of the model, e.g. ``embed_batch_size=64``; for an
            adapter, those that `AdapterEmbeddingModel` does not know go to the base, and
            ``device`` and ``embed_batch_size`` to both.

    Raises:
        ConfigurationError: ``base_embed_model`` is given for a full model, or beside arguments
            of a base that is to be loaded.
        ModelFolderError: The folder holds no model, or the base can't be loaded.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelFolderError(f"There is no model folder at {str(path)!r}.")
    if is_model(folder):
        if base_embed_model is not None:
            raise ConfigurationError(
                f"'base_embed_model' is for adapters, and {str(path)!r} holds a full model. "
                "Leave it out."
            )
        return _full_model(folder, kwargs)
    own = {name: value for name, value in kwargs.items() if name in _OF_THE_ADAPTER | _SHARED}
    of_base = {name: value for name, value in kwargs.items() if name not in _OF_THE_ADAPTER}
    if base_embed_model is not None and of_base.keys() - _SHARED:
        raise ConfigurationError(
            f"{sorted(of_base.keys() - _SHARED)} must be given to a base that is loaded, and "
            "'base_embed_model' is one already. Leave out either."
        )
    # Where the base is given, an adapter that saves itself need not describe its folder.
    base = base_embed_model or _base(folder, describe_adapter_folder(folder), of_base)
    return AdapterEmbeddingModel(base, str(path), **own)


def _full_model(folder: Path, kwargs: dict[str, Any]) -> BaseEmbedding:
    manifest = read_manifest(folder)
    if not manifest and (folder / _TRAINER_STATE).is_file():
        logger.warning(
            "%r is a checkpoint of a run, which does not say how queries and documents were "
            "embedded: it comes back as one model for both, without prompts. Go on with the run by "
            "resume_from_checkpoint=True to have what it makes of it.",
            str(folder),
        )
    prompts = manifest.get("prompts") or {}
    settings = {
        "query_instruction": prompts.get("query"),
        "text_instruction": prompts.get("text"),
        **kwargs,
    }
    return open_model(folder, settings)


def _base(
    folder: Path, description: AdapterDescription, arguments: dict[str, Any]
) -> BaseEmbedding:
    """Load the base that an adapter's folder names."""
    name = description.base_model
    if description.base_class != "HuggingFaceEmbedding" or name is None:
        what = "no base model" if name is None else f"the base {name!r} ({description.base_class})"
        raise ModelFolderError(
            f"{str(folder)!r} names {what}, which can't be loaded by its name. Pass the model as "
            "'base_embed_model'."
        )
    if description.base_folder is not None:
        places = [one for one in (description.base_folder, name) if Path(one).is_dir()]
        if not places:
            raise ModelFolderError(
                f"The base of the adapter in {str(folder)!r}, the folder "
                f"{description.base_folder!r}, is no longer there. Pass the model as "
                "'base_embed_model'."
            )
        name = places[0]
    try:
        settings = {**description.base_settings, **_known_instructions(description), **arguments}
        return open_one(name, settings)
    except ModelFolderError:
        raise
    except Exception as error:  # no connection, no such model, a damaged one
        raise ModelFolderError(
            f"The base {name!r} of the adapter in {str(folder)!r} can't be loaded ({error}). Pass "
            "the model as 'base_embed_model'."
        ) from error


def _known_instructions(description: AdapterDescription) -> dict[str, str]:
    """Return what LlamaIndex puts before the texts of a model of a known name, now at a path.

    It does so wherever the settings name no instruction, or an empty one.
    """
    from llama_index.embeddings.huggingface.utils import (
        get_query_instruct_for_model_name,
        get_text_instruct_for_model_name,
    )

    if description.base_folder is None:
        return {}
    known = {
        "query_instruction": get_query_instruct_for_model_name(description.base_model),
        "text_instruction": get_text_instruct_for_model_name(description.base_model),
    }
    given = description.base_settings
    return {name: text for name, text in known.items() if text and not given.get(name)}
