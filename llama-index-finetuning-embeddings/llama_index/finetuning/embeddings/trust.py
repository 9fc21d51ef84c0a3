"""Whether a model's folder would run code of its own when it is loaded."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.model_folder import MODULES, is_model

_TRUSTED = ("sentence_transformers.", "torch.nn.")


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
