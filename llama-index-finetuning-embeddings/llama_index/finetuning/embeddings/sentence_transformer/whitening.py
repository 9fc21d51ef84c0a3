"""Sentence Transformers that whiten their vectors, for a while or for good."""

import contextlib
import copy
from collections.abc import Iterator

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.linear_ending import linear_ending

# What the modules of a whitening are called in a model, with a number where the name is taken.
_NAME = "whitening"


@contextlib.contextmanager
def whitened(model: SentenceTransformer, matrix: Tensor | None) -> Iterator[None]:
    """Let a model whiten its vectors for a while; None changes nothing.

    Args:
        model: The model; one that normalises does so afterwards too.
        matrix: Shape ``(dim, dim)``.
    """
    names = [name for name, _ in model.named_children()]
    added: list[str] = []
    try:
        if matrix is not None:
            normalized = isinstance(model.get_submodule(names[-1]), upstream.modules().Normalize)
            for module in linear_ending(matrix, normalized=normalized):
                number = 1 + sum(name.startswith(_NAME) for name in [*names, *added])
                added.append(_NAME if number == 1 else f"{_NAME}_{number}")
                model.add_module(added[-1], module.to(model.device))
        yield
    finally:
        for name in added:
            if hasattr(model, name):
                delattr(model, name)


def whiten_alike(base: SentenceTransformer, finetuned: SentenceTransformer) -> None:
    """Where a finetuned model whitens and its base does not, give the base an identity for it."""
    own = dict(base.named_children())
    for name, module in finetuned.named_children():
        if not name.startswith(_NAME) or name in own:
            continue
        alike = copy.deepcopy(module)
        for weight in alike.parameters():
            nn.init.eye_(weight)
        base.add_module(name, alike)
