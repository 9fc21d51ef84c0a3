"""What can be checked before anything is embedded."""

import copy
import json
from typing import Any

import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.utils import infer_torch_device
from torch import nn

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.training import optimizer_for
from llama_index.finetuning.embeddings.adapters import (
    AdapterDescription,
    BaseAdapter,
    Transform,
    saves_itself,
)
from llama_index.finetuning.embeddings.encoding import stated_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError


def check_dimension(
    embed_model: BaseEmbedding,
    adapter: BaseAdapter,
    description: AdapterDescription,
    path: str,
) -> None:
    """Make sure that a saved adapter is for vectors as long as the model's.

    Raises:
        ModelFolderError: It is for others.
    """
    dim = stated_dimension(embed_model)
    expected = description.dimension or getattr(adapter, "in_features", None)
    if None not in (dim, expected) and dim != expected:
        raise ModelFolderError(
            f"The adapter in {path!r} is for vectors of {expected} dimensions, and those of "
            f"{embed_model.model_name!r} have {dim}."
        )


def check_adapter(adapter: Any, dim: int | None, model_name: str, transform: Transform) -> None:
    """Make sure that an adapter can be trained on a model's vectors, and be saved.

    Args:
        adapter: The adapter.
        dim: Length of the model's vectors, where known.
        model_name: Name of the model.
        transform: Whose vectors the adapter is to change.

    Raises:
        ConfigurationError: It can't.
    """
    if not isinstance(adapter, torch.nn.Module) or not callable(getattr(adapter, "save", None)):
        raise ConfigurationError(
            f"'adapter_model' must be a BaseAdapter (got {type(adapter).__name__})."
        )
    if not saves_itself(adapter):
        _check_config(adapter)
    elif transform == "both":
        raise ConfigurationError(
            "'transform' must be 'query' for an adapter that saves itself, as its folder can't "
            f"say 'both' (got {type(adapter).__name__}). Inherit 'save' and 'load' from this "
            "package's BaseAdapter."
        )
    size_in = getattr(adapter, "in_features", dim)
    size_out = getattr(adapter, "out_features", size_in)
    if None not in (dim, size_in) and size_in != dim:
        raise ConfigurationError(
            f"'adapter_model' must take vectors of {dim} dimensions, as {model_name!r} gives them "
            f"(got {size_in})."
        )
    if transform == "query" and size_out != size_in:
        raise ConfigurationError(
            f"'adapter_model' must give vectors as long as it takes (got {size_out} from "
            f"{size_in}): queries are compared with texts that it does not transform. Other "
            "lengths need transform='both'."
        )


def check_device(device: str | None) -> torch.device:
    """Return the device to train on: the one of that name, or the best that torch finds.

    Raises:
        ConfigurationError: There is none of that name here.
    """
    try:
        found = torch.device(device or infer_torch_device())
        torch.zeros(1, device=found)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"'device' must be one that torch finds here (got {device!r}: {error}). Leave it out "
            "for the best one."
        ) from error
    return found


def check_step(adapter: nn.Module, dim: int, options: TrainingOptions) -> None:
    """Make sure that an adapter can be trained as told, by a step of a copy on zeros.

    Args:
        adapter: The adapter, which stays as it is.
        dim: Length of the vectors that it gets.
        options: How to train it.

    Raises:
        ConfigurationError: Adapter, vectors and optimizer do not fit together.
    """
    name = type(adapter).__name__
    adapter = copy.deepcopy(adapter)
    vectors = torch.zeros(2, dim, device=next((p.device for p in adapter.parameters()), None))
    device = vectors.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            found = adapter(vectors)
        except Exception as error:  # a custom adapter's own code
            raise ConfigurationError(
                f"'adapter_model' must take vectors of {dim} dimensions in float32 (got {name}: "
                f"{error}). Build one for this length."
            ) from error
        shape, dtype = tuple(getattr(found, "shape", ())), getattr(found, "dtype", None)
        fits = shape == vectors.shape if options.transform == "query" else shape[:-1] == (2,)
        if not fits or dtype != vectors.dtype:
            raise ConfigurationError(
                f"'adapter_model' must give {vectors.dtype} vectors as long as it takes, {dim} "
                f"(got {name}, which makes {dtype} of shape {shape} of two). Other lengths need "
                "transform='both'."
            )
        try:
            optimizer = optimizer_for(adapter, options)
            found.sum().backward()
            optimizer.step()
        except Exception as error:  # any optimizer's own code
            raise ConfigurationError(
                "'optimizer_class' and 'optimizer_params' must fit the parameters of "
                f"'adapter_model' and need no more than their gradients (got "
                f"{options.optimizer_class.__name__}, {dict(options.optimizer_params or {})} and "
                f"{name}: {error}). Take torch.optim.Adam, for instance."
            ) from error


def _check_config(adapter: Any) -> None:
    try:
        json.dumps(adapter.get_config_dict())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"'adapter_model' can't be saved: {type(adapter).__name__}.get_config_dict must "
            f"return its constructor's arguments as JSON values ({error})."
        ) from error
