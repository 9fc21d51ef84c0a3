"""Whitening: a matrix behind queries that evens out how the documents spread."""

import math

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

# By experiment, see benchmarks/RESULTS.md. One half would whiten wholly, which does harm.
_POWER = 0.15
# Fewer tell too little of the spread to gain anything by it.
MIN_DOCUMENTS = 100
# More than this tell nothing new.
_MAX_DOCUMENTS = 10_000


def whitening_matrix(documents: Tensor) -> Tensor | None:
    """Return the matrix that takes weight from the directions in which documents differ most.

    Documents of one field share a few directions along which all of them spread; a similarity is
    made of these for the most part, and says little of a single document. The matrix is the
    documents' covariance to the power of -0.15, where -0.5 would give all directions the same
    weight. A frozen document and a query times the matrix have the similarity that both would
    have after half of it each. Scaled to a mean weight of 1, it is close to the identity.

    The covariance is shrunk towards equal directions the more, the fewer documents there are
    (Ledoit and Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4, by scikit-learn).
    Whitening of sentence vectors: Su et al. 2021, https://arxiv.org/abs/2103.15316.

    Args:
        documents: Their vectors, of any length each, shape ``(n_documents, dim)``. Of more than
            10,000 every second, third and so on is taken.

    Returns:
        Shape ``(dim, dim)``, symmetric; None with fewer than 100 documents, or where all have the
        same vector or one is not finite.
    """
    if len(documents) < MIN_DOCUMENTS:
        return None
    some = documents[:: math.ceil(len(documents) / _MAX_DOCUMENTS)]
    directions = torch.nn.functional.normalize(some.float().cpu(), dim=-1)
    if not torch.isfinite(directions).all():
        return None
    covariance = torch.from_numpy(ledoit_wolf(directions.numpy())[0])
    variances, axes = torch.linalg.eigh(covariance.double())
    # Rounding may leave a variance of nothing below zero.
    if variances[0] <= 0:
        return None
    weights = variances**-_POWER
    matrix: Tensor = (axes * (weights / weights.mean()) @ axes.T).float()
    return matrix.to(documents.device)
