"""Sentence Transformers that end in a matrix."""

import torch
from torch import Tensor, nn

from llama_index.finetuning.embeddings import upstream


def linear_ending(matrix: Tensor, *, normalized: bool) -> list[nn.Module]:
    """Return modules that multiply each vector by a matrix.

    Args:
        matrix: Shape ``(out_features, in_features)``.
        normalized: Give the products length 1 as well.
    """
    modules = upstream.modules()
    dense = modules.Dense(
        matrix.shape[1], matrix.shape[0], bias=False, activation_function=nn.Identity()
    )
    with torch.no_grad():
        dense.linear.weight.copy_(matrix)
    return [dense, modules.Normalize()] if normalized else [dense]
