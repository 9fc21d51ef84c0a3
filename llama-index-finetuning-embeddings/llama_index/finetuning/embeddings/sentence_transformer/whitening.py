"""Sentence Transformers that whiten their vectors: a matrix as the last module."""

import contextlib
from collections.abc import Iterator

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index.finetuning.embeddings.sentence_transformer import upstream
from llama_index.finetuning.embeddings.sentence_transformer.ending import linear_ending

# The last modules of a model that whitens, by name.
_NAMES = ("whitening", "whitening_normalize")


def add_whitening(model: SentenceTransformer, matrix: Tensor) -> None:
    """Let a model multiply its vectors by a matrix, and normalise them if it did so before.

    Args:
        model: The model; changed in place.
        matrix: Shape ``(dim, dim)``.
    """
    like = next(model.parameters())
    last = next(reversed(model._modules.values()))
    normalized = isinstance(last, upstream.modules().Normalize)
    ending = linear_ending(matrix, normalized=normalized)
    for name, module in zip(_NAMES, ending, strict=False):
        model.add_module(name, module.to(device=like.device, dtype=like.dtype))


def whiten_alike(base: SentenceTransformer, finetuned: SentenceTransformer) -> None:
    """Where a finetuned model whitens, give its base the same modules with the identity."""
    if hasattr(finetuned, _NAMES[0]):
        matrix = getattr(finetuned, _NAMES[0]).linear.weight
        add_whitening(base, torch.eye(len(matrix)))


@contextlib.contextmanager
def whitened(model: SentenceTransformer, matrix: Tensor | None) -> Iterator[None]:
    """Let a model whiten its vectors for a while; None changes nothing."""
    if matrix is not None:
        add_whitening(model, matrix)
    try:
        yield
    finally:
        for name in _NAMES:
            if hasattr(model, name):
                delattr(model, name)
