"""Whitening: a matrix behind the queries' encoder that evens out how the documents spread."""

import contextlib
from collections.abc import Iterator

import torch
from sentence_transformers import SentenceTransformer
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from llama_index.finetuning.embeddings.sentence_transformer import upstream
from llama_index.finetuning.embeddings.sentence_transformer.ending import linear_ending

# By experiment, see benchmarks/RESULTS.md. One half would whiten wholly, which does harm.
_POWER = 0.2
# Fewer tell too little of the spread to gain anything by it.
MIN_DOCUMENTS = 100
# The last modules of a model that whitens, by name.
_NAMES = ("whitening", "whitening_normalize")


def whitening_matrix(documents: Tensor) -> Tensor | None:
    """Return the matrix that takes weight from the directions in which documents differ most.

    Documents of one field share a few directions along which all of them spread; a similarity is
    made of these for the most part, and says little of a single document. The matrix is the
    documents' covariance to the power of -0.2, where -0.5 would give all directions the same
    weight. A frozen document and a query times the matrix have the similarity that both would
    have after half of it each. Scaled to a mean weight of 1, it is close to the identity.

    The covariance is shrunk towards equal directions the more, the fewer documents there are
    (Ledoit and Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4, by scikit-learn).
    Whitening of sentence vectors: Su et al. 2021, https://arxiv.org/abs/2103.15316.

    Args:
        documents: Their vectors, of any length each, shape ``(n_documents, dim)``.

    Returns:
        Shape ``(dim, dim)``, symmetric; None with fewer than 100 documents, or where all have the
        same vector.
    """
    if len(documents) < MIN_DOCUMENTS:
        return None
    directions = torch.nn.functional.normalize(documents, dim=-1)
    covariance = torch.from_numpy(ledoit_wolf(directions.numpy())[0])
    variances, axes = torch.linalg.eigh(covariance.double())
    # Rounding may leave a variance of nothing below zero.
    if not torch.isfinite(variances).all() or variances[0] <= 0:
        return None
    weights = variances**-_POWER
    matrix: Tensor = (axes * (weights / weights.mean()) @ axes.T).float()
    return matrix


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
