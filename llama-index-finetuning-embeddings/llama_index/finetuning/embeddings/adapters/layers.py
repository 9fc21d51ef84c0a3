"""The adapters: a linear map, a low-rank one, two layers, and the base class of your own."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapters.folder import (
    AdapterDescription,
    Transform,
    describe_adapter_folder,
    fill,
    retired_weights,
    shapes,
    unfit,
    write_adapter,
)
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.files import atomic_folder

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}
# Small enough to leave rankings as they are, large enough for a gradient from the first step.
_NEAR_ZERO = 1e-4


class BaseAdapter(nn.Module):
    """A map from vectors to vectors, trained while the embedding model stays as it is.

    To write one of your own, derive from this class, give ``get_config_dict`` (the arguments of
    your constructor, as JSON values) and ``forward``; saving and loading are inherited.
    """

    # Whose vectors it was trained for, which its folder says.
    trained_transform: Transform = "query"

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        raise NotImplementedError(f"{type(self).__name__} must define 'get_config_dict'.")

    def forward(self, embed: Tensor) -> Tensor:
        """Map vectors of shape ``(dim,)`` or ``(n, dim)``."""
        raise NotImplementedError(f"{type(self).__name__} must define 'forward'.")

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Write the adapter to a folder (``config.json`` and ``model.safetensors``).

        Raises:
            OutputError: The folder can't be written.
        """
        description = AdapterDescription(
            adapter_class=type(self).__name__,
            adapter_config=self.get_config_dict(),
            transform=self.trained_transform,
        )
        with atomic_folder(output_path) as folder:
            write_adapter(self, folder, description)

    @classmethod
    def load(cls, input_path: str | os.PathLike[str]) -> Self:
        """Read an adapter of this class from a folder, also from one of the retired package.

        Raises:
            ModelFolderError: The folder holds no adapter, or one of another class.
        """
        description = describe_adapter_folder(input_path)
        config = description.adapter_config
        if description.adapter_class not in (None, cls.__name__):
            raise ModelFolderError(
                f"{str(input_path)!r} holds an adapter of the class "
                f"{description.adapter_class!r}, not {cls.__name__!r}."
            )
        retired = description.adapter_class is None
        weights = retired_weights(input_path) if retired else {}
        build = partial(cls._from_retired, config, weights) if retired else partial(cls, **config)
        found = [one.shape for one in weights.values()] if retired else shapes(input_path)
        if _n_weights(build) > sum(map(math.prod, found)):
            raise unfit(cls, input_path, f"{config} asks for more than there are")
        try:
            adapter = build()
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFolderError(
                f"The arguments in {str(input_path)!r} are not those of {cls.__name__}: {error}. "
                "Pass the class that the adapter was trained with."
            ) from error
        if not retired:
            fill(adapter, input_path)
        else:
            try:
                adapter.load_state_dict(weights)
            except RuntimeError as error:
                raise unfit(cls, input_path, error) from error
        if not all(one.isfinite().all() for one in adapter.parameters()):
            raise unfit(cls, input_path, "they hold NaN or infinity")
        return adapter

    @classmethod
    def _from_retired(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """Build the adapter that a folder of the retired package describes."""
        return cls(**config)


class LinearLayer(BaseAdapter):
    """A linear map that starts as the identity.

    Args:
        in_features: Length of the vectors that come in.
        out_features: Length of those that go out; other than ``in_features`` only where both
            queries and texts are transformed.
        bias: Add a learned vector, which starts as zero.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.bias = bias
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(out_features, in_features))
            if bias:
                self.linear.bias.zero_()

    def forward(self, embed: Tensor) -> Tensor:
        """Return ``W x + b``."""
        mapped: Tensor = self.linear(embed)
        return mapped

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
        }


class LowRankAdapter(BaseAdapter):
    """The vector itself plus a map of low rank, ``x + B A x``; starts as the identity.

    It has ``2 * rank * in_features`` weights where `LinearLayer` has ``in_features`` squared:
    for large vectors and few training queries. See LoRA (Hu et al., 2021,
    https://arxiv.org/abs/2106.09685).

    Args:
        in_features: Length of the vectors, which stays the same.
        rank: Number of directions that the map may read and write.
    """

    def __init__(self, in_features: int, rank: int = 32) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, rank=rank)
        if rank > in_features:
            raise ConfigurationError(
                f"'rank' must be at most 'in_features' (got {rank} and {in_features})."
            )
        self.in_features = in_features
        self.rank = rank
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, in_features, bias=False)
        with torch.no_grad():
            nn.init.orthogonal_(self.down.weight)
            self.up.weight.zero_()

    def forward(self, embed: Tensor) -> Tensor:
        """Return ``x + B A x``."""
        moved: Tensor = self.up(self.down(embed))
        return embed + moved

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"in_features": self.in_features, "rank": self.rank}


class TwoLayerNN(BaseAdapter):
    """Two linear layers with an activation between them, on top of the vector if asked.

    With ``add_residual`` the output is ``x + residual_weight * f(x)``. The branch ``f`` starts
    close to zero and ``residual_weight`` as one, so that the adapter starts as the identity (to
    about 1e-4) while every weight has a gradient from the first step. Without it the start is
    random, and only much data makes up for that.

    Args:
        in_features: Length of the vectors that come in.
        hidden_features: Length between the layers.
        out_features: Length of the vectors that go out.
        bias: Give both layers a bias.
        activation_fn_str: A name that `get_activation_function` knows.
        add_residual: Add the vector itself; needs ``out_features`` equal to ``in_features``.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        bias: bool = False,
        activation_fn_str: str = "relu",
        add_residual: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        if add_residual and in_features != out_features:
            raise ConfigurationError(
                "'add_residual' needs 'out_features' equal to 'in_features' (got "
                f"{out_features} and {in_features})."
            )
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.out_features = out_features
        self.bias = bias
        self.activation_fn_str = activation_fn_str
        self.linear1 = nn.Linear(in_features, hidden_features, bias=bias)
        self.linear2 = nn.Linear(hidden_features, out_features, bias=bias)
        self._activation_function = get_activation_function(activation_fn_str)
        self._add_residual = add_residual
        # Present without the residual too: folders of the retired package hold it.
        self.residual_weight = nn.Parameter(torch.ones(1), requires_grad=add_residual)
        if add_residual:
            with torch.no_grad():
                for parameter in self.linear2.parameters():
                    parameter.mul_(_NEAR_ZERO)

    @classmethod
    def _from_retired(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """Build the adapter; the retired one had biases whatever its configuration said."""
        return cls(**{**config, "bias": "linear1.bias" in weights})

    def forward(self, embed: Tensor) -> Tensor:
        """Return ``f(x)``, or ``x + residual_weight * f(x)``."""
        branch: Tensor = self.linear2(self._activation_function(self.linear1(embed)))
        return self.residual_weight * branch + embed if self._add_residual else branch

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "in_features": self.in_features,
            "hidden_features": self.hidden_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "activation_fn_str": self.activation_fn_str,
            "add_residual": self._add_residual,
        }


def get_activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function of a name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name not in _ACTIVATIONS:
        raise ConfigurationError(
            f"'activation_fn_str' must be in {tuple(_ACTIVATIONS)} (got {name!r})."
        )
    return _ACTIVATIONS[name]


def _n_weights(build: Callable[[], nn.Module]) -> int:
    """Count the weights of an adapter to be built, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters())
    except Exception:
        return 0  # building it for real says what is wrong, if anything is


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"{name!r} must be at least 1 (got {size}).")
