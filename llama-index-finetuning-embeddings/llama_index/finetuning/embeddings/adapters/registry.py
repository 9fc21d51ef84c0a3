"""Save and load adapters of any class, also of classes that save themselves."""

import os
from pathlib import Path
from typing import Any, cast

import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from torch import nn

from llama_index.finetuning.embeddings.adapters.folder import (
    BASE_SETTINGS,
    AdapterDescription,
    Transform,
    describe_adapter_folder,
    write_adapter,
)
from llama_index.finetuning.embeddings.adapters.layers import (
    BaseAdapter,
    LinearLayer,
    LowRankAdapter,
    TwoLayerNN,
)
from llama_index.finetuning.embeddings.errors import ModelFolderError

_CLASSES: dict[str, type[BaseAdapter]] = {
    cls.__name__: cls for cls in (LinearLayer, LowRankAdapter, TwoLayerNN)
}

# By their names, as importing them takes seconds.
_PLAIN_CLASSES = (
    "llama_index.embeddings.huggingface.base.HuggingFaceEmbedding",
    "llama_index.finetuning.embeddings.unbounded.UnboundedHuggingFaceEmbedding",
)


def saves_itself(adapter: object) -> bool:
    """Tell whether an adapter writes its folder in a way of its own.

    That is one that overrides ``BaseAdapter.save``, or one of the retired package's classes.
    """
    return not isinstance(adapter, BaseAdapter) or type(adapter).save is not BaseAdapter.save


def is_own_class(adapter_cls: type[Any]) -> bool:
    """Tell whether a class is one of this package's, which a folder's reader finds by its name."""
    return adapter_cls in _CLASSES.values()


def is_identity(adapter: nn.Module) -> bool:
    """Tell whether an adapter is the `LinearLayer` that stands for the base."""
    if type(adapter) is not LinearLayer:
        return False
    fresh = LinearLayer(**adapter.get_config_dict()).state_dict()
    return all(
        torch.equal(value.cpu(), fresh[name]) for name, value in adapter.state_dict().items()
    )


def save_adapter(
    adapter: BaseAdapter,
    folder: Path,
    *,
    transform: Transform,
    embed_model: BaseEmbedding,
    dimension: int,
) -> None:
    """Write an adapter, and what it was trained on, into a folder that is being filled.

    Args:
        adapter: The adapter.
        folder: The folder.
        transform: Whose vectors it is for.
        embed_model: The model that it was trained on.
        dimension: Length of that model's vectors.
    """
    if saves_itself(adapter):
        adapter.save(str(folder))
        return
    settings = {name: getattr(embed_model, name, None) for name in BASE_SETTINGS}
    # HuggingFaceEmbedding hands these on, and its field of the length is not heeded afterwards.
    inner = getattr(embed_model, "_model", None)
    card = getattr(inner, "model_card_data", None)
    for setting, value in (
        ("max_length", getattr(inner, "max_seq_length", None)),
        ("revision", getattr(card, "base_model_revision", None)),
        ("truncate_dim", getattr(inner, "truncate_dim", None)),
    ):
        if isinstance(value, BASE_SETTINGS[setting]):
            settings[setting] = value
    name = embed_model.model_name
    # Another kind of model may mean something else by such a name.
    kept = {name: one for name, one in settings.items() if isinstance(one, BASE_SETTINGS[name])}
    description = AdapterDescription(
        adapter_class=type(adapter).__name__,
        adapter_config=adapter.get_config_dict(),
        transform=transform,
        base_model=name,
        # By its name alone, "my-model" would be one on the Hub wherever it is no folder.
        base_folder=str(Path(name).resolve()) if Path(name).is_dir() else None,
        base_class=_class_name(embed_model),
        base_settings=kept,
        dimension=dimension,
    )
    write_adapter(adapter, folder, description)


def _class_name(embed_model: BaseEmbedding) -> str:
    """Name the class that brings a model back, which one that inherits the name is not."""
    cls = type(embed_model)
    known = f"{cls.__module__}.{cls.__qualname__}" in _PLAIN_CLASSES
    return embed_model.class_name() if known else cls.__name__


def load_adapter(
    path: str | os.PathLike[str], adapter_cls: type[Any] | None = None
) -> tuple[BaseAdapter, AdapterDescription]:
    """Read an adapter, and what its folder says of it.

    Args:
        path: A folder of this package or of the retired one.
        adapter_cls: The adapter's class; needed for classes that are not of this package. Where
            the base was better than what was trained, the folder holds the `LinearLayer` that
            stands for the base, which is returned whatever class is named.

    Raises:
        ModelFolderError: The folder holds no adapter, or not one of this class.
    """
    try:
        description = describe_adapter_folder(path)
    except ModelFolderError:
        if adapter_cls is None or not _loads_itself(adapter_cls):
            raise
        description = AdapterDescription({})  # such a class writes what it likes
    held = description.adapter_class
    if adapter_cls is not None and held == LinearLayer.__name__:
        namesake = adapter_cls.__name__ == held
        foreign = not issubclass(adapter_cls, BaseAdapter)
        # The folder is in the format of this package, which a foreign class of its name can't read.
        if foreign if namesake else is_identity(LinearLayer.load(path)):
            adapter_cls = LinearLayer
    if adapter_cls is not None and not issubclass(adapter_cls, BaseAdapter):
        return _load_foreign(path, adapter_cls), description
    cls = adapter_cls or _class_of(path, description)
    adapter = cls.load(os.fspath(path))
    adapter.trained_transform = description.transform
    if is_own_class(cls) and description.dimension not in (None, adapter.in_features):
        raise ModelFolderError(
            f"{str(path)!r} holds an adapter for vectors of {adapter.in_features} dimensions and "
            f"says that it is for {description.dimension}. Train it again."
        )
    return adapter, description


def _loads_itself(adapter_cls: type[Any]) -> bool:
    if not issubclass(adapter_cls, BaseAdapter):
        return True
    # A static method has no '__func__'.
    load = getattr(adapter_cls.load, "__func__", adapter_cls.load)
    return load is not BaseAdapter.load.__func__  # type: ignore[attr-defined]


def _class_of(path: str | os.PathLike[str], description: AdapterDescription) -> type[BaseAdapter]:
    if description.adapter_class is not None:
        cls = _CLASSES.get(description.adapter_class)
        if cls is None:
            raise ModelFolderError(
                f"{str(path)!r} holds an adapter of the class {description.adapter_class!r}, "
                "which is not of this package. Pass the class as 'adapter_cls'."
            )
        return cls
    # The retired package wrote no class; the arguments of its two classes tell them apart.
    names = set(description.adapter_config)
    if names == {"in_features", "out_features", "bias"}:
        return LinearLayer
    if {"in_features", "hidden_features", "out_features", "activation_fn_str"} <= names:
        return TwoLayerNN
    raise ModelFolderError(
        f"{str(path)!r} does not say which class its adapter is of (config.json: "
        f"{sorted(names)}). Pass the class as 'adapter_cls'."
    )


def _load_foreign(path: str | os.PathLike[str], adapter_cls: type[Any]) -> BaseAdapter:
    """Load through a class that shares the retired package's interface and no code with us."""
    try:
        return cast(BaseAdapter, adapter_cls.load(str(path)))
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"{adapter_cls.__name__}.load can't read {str(path)!r}: {error}. Pass a subclass of "
            "this package's BaseAdapter, or the folder that this class wrote."
        ) from error
