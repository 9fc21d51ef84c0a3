"""The files of an adapter folder, of this package and of the retired one.

Ours is ``config.json`` (the fields of `AdapterDescription`) and ``model.safetensors``. The retired
package wrote the constructor's arguments alone to ``config.json``, and ``pytorch_model.bin``.
"""

import importlib.metadata
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import read_json_object, write_json

Transform = Literal["query", "both"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RETIRED_WEIGHTS = "pytorch_model.bin"
# What HuggingFaceEmbedding needs to give the same vectors again.
BASE_SETTINGS: dict[str, type] = {
    "max_length": int,
    "normalize": bool,
    "query_instruction": str,
    "revision": str,
    "text_instruction": str,
    "truncate_dim": int,
}


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
        base_folder: Where that model's folder was, if it is one.
        base_class: Name of that model's class, where known.
        base_settings: The settings of that model that its vectors depend on.
        dimension: Length of that model's vectors, where known.
        library_version: Version of this package that wrote it.
    """

    adapter_config: dict[str, Any]
    adapter_class: str | None = None
    transform: Transform = "query"
    base_model: str | None = None
    base_folder: str | None = None
    base_class: str | None = None
    base_settings: dict[str, Any] = field(default_factory=dict)
    dimension: int | None = None
    library_version: str | None = field(default_factory=_library_version)


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
    write_json(folder / CONFIG, asdict(description))
    save_model(adapter, str(folder / WEIGHTS))


def shapes(path: str | os.PathLike[str]) -> list[tuple[int, ...]]:
    """Return the shapes of the weights in a folder of this package, going by the file's header.

    Raises:
        ModelFolderError: The file holds no weights.
    """
    try:
        with safe_open(Path(path) / WEIGHTS, framework="pt") as file:
            return [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    except Exception as error:  # whatever damage makes the reader fail
        raise _no_adapter(Path(path), f"{WEIGHTS} can't be read: {error}") from error


def fill(adapter: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read the weights of a folder of this package into an adapter.

    Raises:
        ModelFolderError: They are not this adapter's.
    """
    try:
        load_model(adapter, str(Path(path) / WEIGHTS))
    except Exception as error:  # whatever damage makes the reader fail
        raise unfit(type(adapter), path, error) from error


def retired_weights(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Read the weights of a folder of the retired package; nothing in the file is executed.

    Raises:
        ModelFolderError: The file holds no weights, or more than weights.
    """
    file = Path(path) / RETIRED_WEIGHTS
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damage makes the reader fail
        raise _no_adapter(Path(path), f"{RETIRED_WEIGHTS} can't be read: {error}") from error
    if not isinstance(weights, Mapping) or not all(_is_weight(*one) for one in weights.items()):
        raise _no_adapter(Path(path), f"{RETIRED_WEIGHTS} holds no weights, or more than weights")
    # With a stride of 0, one number on disk can stand for a billion in memory.
    if sum(weight.nbytes for weight in weights.values()) > file.stat().st_size:
        raise _no_adapter(Path(path), f"{RETIRED_WEIGHTS} claims more weights than it holds")
    return weights


def unfit(
    adapter_cls: type[nn.Module], path: str | os.PathLike[str], reason: Exception | str
) -> ModelFolderError:
    """Return the error for weights that do not fit an adapter's class."""
    return ModelFolderError(
        f"The weights in {str(path)!r} do not fit {adapter_cls.__name__}: {reason}. Pass the "
        "class that the adapter was trained with."
    )


def _is_weight(name: object, weight: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(weight, Tensor)
        and weight.is_floating_point()
        and (weight.layout, weight.device.type) == (torch.strided, "cpu")
    )


def _described(folder: Path, config: dict[str, Any]) -> AdapterDescription:
    known = {name: value for name, value in config.items() if name in _KINDS}
    for name, value in known.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            wrong = "no object" if name in _OBJECTS else reprlib.repr(value)
            raise _no_adapter(folder, f"{name!r} is {wrong}")
    try:
        description = AdapterDescription(**known)
    except TypeError as error:
        raise _no_adapter(folder, f"{CONFIG} is incomplete: {error}") from error
    if description.transform not in ("query", "both"):
        raise _no_adapter(folder, f"'transform' is {description.transform!r}")
    if description.dimension is not None and description.dimension < 1:
        raise _no_adapter(folder, f"'dimension' is {description.dimension}")
    for name, value in description.base_settings.items():
        # They go to a model's constructor, which takes others too: 'trust_remote_code', say.
        if not isinstance(value, BASE_SETTINGS.get(name, ())):
            raise _no_adapter(folder, f"'base_settings' has {name!r}: {reprlib.repr(value)}")
    return description


_OBJECTS = ("adapter_config", "base_settings")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_OBJECTS, dict),
    **dict.fromkeys(("adapter_class", "transform"), str),
    **dict.fromkeys(("base_model", "base_folder", "base_class", "library_version"), str | None),
    "dimension": int | None,
}


def _need(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise _no_adapter(folder, f"{name} is missing")


def _no_adapter(folder: Path, reason: str) -> ModelFolderError:
    return ModelFolderError(
        f"{str(folder)!r} is no adapter folder ({reason}). It must hold {CONFIG} and {WEIGHTS} "
        f"(or {RETIRED_WEIGHTS}) as EmbeddingAdapterFinetuneEngine.finetune() writes them."
    )
