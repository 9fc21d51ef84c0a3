"""Folders of full models: one Sentence Transformer, or one for queries beside one for documents.

The second kind is a Sentence Transformers ``Router`` whose two routes are whole Sentence
Transformers in the folders ``query`` and ``document``: ``SentenceTransformer(folder)`` loads it
for ``encode_query`` and ``encode_document``, and each side loads by itself too.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.errors import ModelFolderError

MODULES = "modules.json"
ROUTER = "router_config.json"
SIDES = ("query", "document")

_TRUSTED = ("sentence_transformers.", "torch.nn.")


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
        ModelFolderError: It can't be loaded, or names code of its own and no
            ``trust_remote_code=True`` is among the settings.
    """
    if not settings.get("trust_remote_code"):
        check_names_no_code(folder)
    # A relative path could be the name of a model that LlamaIndex knows an instruction for.
    folder = folder.resolve()
    try:
        if not has_two_sides(folder):
            return _opened(str(folder), settings)
        query, document = (_opened(str(folder / side), settings) for side in SIDES)
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

    Raises:
        ModelFolderError: It names code of its own, as for `open_model`.
    """
    if not settings.get("trust_remote_code"):
        check_names_no_code(Path(name))
    return _opened(name, settings)


def _opened(name: str, settings: Mapping[str, Any]) -> BaseEmbedding:
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


def check_names_no_code(folder: Path) -> None:
    """Make sure that a Sentence Transformers folder names no class but of that library and torch.

    Before version 6, Sentence Transformers imports every class that a folder on disk names, and
    runs the module files that lie in it, whatever ``trust_remote_code`` says.

    Args:
        folder: The folder; nothing is checked where there is no ``modules.json``.

    Raises:
        ModelFolderError: It names another class, or files outside of itself.
    """
    if not is_model(folder):
        return
    for file in sorted(folder.rglob("*.json")):
        if file.name != MODULES and not file.name.endswith("config.json"):
            continue
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # whoever loads the model can't read it either, and says so
        for name in _classes(config):
            if "." in name and not name.startswith(_TRUSTED):
                raise ModelFolderError(
                    f"{str(file)!r} names the class {name!r}, whose code would be run. If you "
                    "trust it, pass trust_remote_code=True in Python."
                )
        for path in _paths(config):
            if ".." in PurePath(path).parts or PurePath(path).is_absolute():
                raise ModelFolderError(
                    f"{str(file)!r} names a file outside of its folder: {path!r}. A model's files "
                    "must lie in its folder."
                )


def _classes(config: Any) -> Iterator[str]:
    """Yield the classes of modules.json, of a router's sides, and of a module's own parts."""
    entries = config if isinstance(config, list) else [config]
    for entry in entries:
        if isinstance(entry, dict):
            types = entry.get("types")
            found = [entry.get(one) for one in ("type", "activation_function", "tokenizer_class")]
            found += types.values() if isinstance(types, dict) else ()
            yield from (one for one in found if isinstance(one, str))


def _paths(config: Any) -> Iterator[str]:
    if isinstance(config, list):
        found = (entry.get("path") for entry in config if isinstance(entry, dict))
        yield from (path for path in found if isinstance(path, str))
    elif isinstance(config, dict) and isinstance(config.get("types"), dict):
        yield from config["types"]
