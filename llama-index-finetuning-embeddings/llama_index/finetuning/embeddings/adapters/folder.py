"""The files of an adapter folder, of this package and of the retired one.

Ours is ``config.json`` (the fields of `AdapterDescription`) and ``model.safetensors``. The retired
package wrote the constructor's arguments alone to ``config.json``, and ``pytorch_model.bin``.
"""

import importlib.metadata
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import read_json_object

Transform = Literal["query", "both"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RETIRED_WEIGHTS = "pytorch_model.bin"


def _library_version() -> str:
    return importlib.metadata.version("llama-index-finetuning-embeddings")


@dataclass(frozen=True)
class AdapterDescription:
    """What ``config.json`` says.

    Attributes:
        adapter_config: The arguments of the adapter's constructor.
        adapter_class: Name of the adapter's class; None in a folder of the retired package.
        transform: Whose vectors it is for: queries alone, or texts too.
        base_model: Name of the embedding model that it was trained on, where known.
        base_class: Name of that model's class in LlamaIndex, where known.
        base_settings: The settings of that model that its vectors depend on.
        dimension: Length of that model's vectors, where known.
        library_version: Version of this package that wrote it.
    """

    adapter_config: dict[str, Any]
    adapter_class: str | None = None
    transform: Transform = "query"
    base_model: str | None = None
    base_class: str | None = None
    base_settings: dict[str, Any] = field(default_factory=dict)
    dimension: int | None = None
    library_version: str | None = field(default_factory=_library_version)


def is_adapter_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds an adapter, going by the files that it has."""
    try:
        describe_adapter_folder(path)
    except ModelFolderError:
        return False
    return True


def describe_adapter_folder(path: str | os.PathLike[str]) -> AdapterDescription:
    """Read what an adapter folder says of itself.

    Raises:
        ModelFolderError: The folder is missing, or holds no adapter.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelFolderError(f"There is no adapter folder at {str(path)!r}.")
    try:
        config = read_json_object(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise _no_adapter(folder, f"{CONFIG} can't be read: {error}") from error
    if "adapter_class" in config:
        _need(folder, WEIGHTS)
        return _described(folder, config)
    _need(folder, RETIRED_WEIGHTS)
    if "model_type" in config or "architectures" in config:
        raise _no_adapter(folder, "it is a whole transformer model")
    return AdapterDescription(adapter_config=config, library_version=None)


def write_adapter(adapter: nn.Module, folder: Path, description: AdapterDescription) -> None:
    """Write an adapter's two files into a folder that is being filled."""
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_model(adapter, str(folder / WEIGHTS))


def fill(adapter: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read the weights of a folder of this package into an adapter.

    Raises:
        ModelFolderError: They are not this adapter's.
    """
    try:
        load_model(adapter, str(Path(path) / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise unfit(adapter, path, error) from error


def retired_weights(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Read the weights of a folder of the retired package; nothing in the file is executed.

    Raises:
        ModelFolderError: The file holds no weights, or more than weights.
    """
    try:
        weights = torch.load(Path(path) / RETIRED_WEIGHTS, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _no_adapter(Path(path), f"{RETIRED_WEIGHTS} can't be read: {error}") from error
    if not isinstance(weights, Mapping):
        raise _no_adapter(Path(path), f"{RETIRED_WEIGHTS} holds no weights")
    return weights


def unfit(adapter: nn.Module, path: str | os.PathLike[str], error: Exception) -> ModelFolderError:
    """Return the error for weights that do not fit an adapter."""
    return ModelFolderError(
        f"The weights in {str(path)!r} do not fit {type(adapter).__name__}: {error}. Pass the "
        "class that the adapter was trained with."
    )


def _described(folder: Path, config: dict[str, Any]) -> AdapterDescription:
    known = {name: value for name, value in config.items() if name in _FIELDS}
    try:
        description = AdapterDescription(**known)
    except TypeError as error:
        raise _no_adapter(folder, f"{CONFIG} is incomplete: {error}") from error
    if not isinstance(description.adapter_config, dict):
        raise _no_adapter(folder, "'adapter_config' is no object")
    if description.transform not in ("query", "both"):
        raise _no_adapter(folder, f"'transform' is {description.transform!r}")
    return description


_FIELDS = tuple(AdapterDescription.__dataclass_fields__)


def _need(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise _no_adapter(folder, f"{name} is missing")


def _no_adapter(folder: Path, reason: str) -> ModelFolderError:
    return ModelFolderError(
        f"{str(folder)!r} is no adapter folder ({reason}). It must hold {CONFIG} and {WEIGHTS} "
        f"(or {RETIRED_WEIGHTS}) as EmbeddingAdapterFinetuneEngine.finetune() writes them."
    )
