"""How far to go from the base: trained in stages, chosen by data that was not trained on."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.scoring import Scorer
from llama_index.finetuning.embeddings.adapter.training import train
from llama_index.finetuning.embeddings.adapter.vectors import Rows, TrainingSet, Vectors

# From where hardly anything moves to where most training sets are learned by heart.
PULLS = (1.0, 0.3, 0.1, 0.03)
_FOLDS = 5
# How small training sets are folded anew, to even out the luck of one division.
_MAX_REPEATS = 3
_ENOUGH_QUERIES = 2_000
_MOST_QUERIES = 4_000
# A larger step must earn its larger risk: standard errors to choose a stage by, and to accept it.
_TO_CHOOSE = 3.0
_TO_ACCEPT = 1.0
_LEAST_GAIN = 1e-4


def pulls(options: TrainingOptions) -> tuple[float, ...]:
    """Return the pulls of the stages."""
    return PULLS if options.identity_pull is None else (options.identity_pull,)


def train_in_stages(
    adapter: nn.Module,
    data: TrainingSet,
    options: TrainingOptions,
    stages: Sequence[float],
    *,
    after_step: Callable[[float], bool],
    after_stage: Callable[[], object] = lambda: None,
) -> None:
    """Train with one pull after the other, each stage going on from where the last one ended."""
    generator = torch.Generator().manual_seed(options.seed)
    start = copy_of(adapter)
    for pull in stages:
        stopped = train(
            adapter,
            data,
            options,
            pull=pull,
            start=start,
            generator=generator,
            after_step=after_step,
        )
        after_stage()
        if stopped:
            return


def copy_of(adapter: nn.Module) -> dict[str, Tensor]:
    """Return a copy of an adapter's parameters and buffers."""
    return {name: value.detach().clone() for name, value in adapter.state_dict().items()}


def folded(adapter: nn.Module, matrix: Tensor) -> nn.Module:
    """Return a copy of a `LinearLayer` that multiplies what it gives by a matrix."""
    product = copy.deepcopy(adapter)
    with torch.no_grad():
        for parameter in product.parameters():
            # A bias is a vector, and the matrix symmetric.
            parameter.copy_(matrix @ parameter)
    return product


@dataclass(frozen=True)
class Candidate:
    """A way of finetuning, and what it gained in cross-validation.

    Attributes:
        stages: How many of the stages to train, 0 for the adapter as it came.
        whitened: The matrix that whitens goes behind what was trained.
        gain: The mean gain over the base, in nDCG@10.
        error: The standard error of the gain, over groups of queries that share documents.
    """

    stages: int
    whitened: bool
    gain: float
    error: float


@dataclass(frozen=True)
class Choice:
    """What cross-validation found.

    Attributes:
        best: What to do; None is to keep the base.
        before: The base's mean nDCG@10 on documents that were not trained on.
        candidates: All that was tried.
    """

    best: Candidate | None
    before: float
    candidates: list[Candidate]


def cross_validate(
    adapter: nn.Module,
    vectors: Vectors,
    options: TrainingOptions,
    *,
    whitening: Tensor | None,
    after_step: Callable[[float], bool],
) -> Choice:
    """Choose how far to train, and whether to whiten, by cross-validation over documents.

    Each fifth of the documents is hidden once, also from the negatives, with the queries that
    they are relevant to; these are then looked up among all documents. Of the stages that gain
    more than one standard error, the one is chosen whose gain less three is highest; the base
    where there are none. Small sets are divided up to three times; of more than 4,000 queries a
    sample is enough.

    Args:
        adapter: Where to start; stays as it is.
        vectors: The training set, as `TrainingSet` wants it; for its rows see `n_folds`.
        options: How to train.
        whitening: A matrix to try behind the adapter, which is a `LinearLayer` then.
        after_step: Called with each step's loss.
    """
    rows = vectors.rows
    groups = rows.groups()
    stages = pulls(options)
    repeats = n_repeats(len(groups))
    before = np.zeros(len(groups))
    kinds = (False,) if whitening is None else (False, True)
    ways = [(number, whiten) for whiten in kinds for number in range(len(stages) + 1)]
    after = np.zeros((len(ways), len(groups)))
    sampled = _sample(groups, options.seed)
    for repeat in range(repeats):
        for held_out in _folds(groups, sampled, options.seed + repeat):
            data = TrainingSet(
                vectors,
                options.negatives,
                use=np.setdiff1d(sampled, held_out).tolist(),
                hidden=frozenset(row for query in held_out for row in rows.relevant[query]),
            )
            scorer = Scorer(
                vectors.queries[torch.from_numpy(held_out).to(vectors.queries.device)],
                vectors.documents,
                [rows.relevant[query] for query in held_out],
                options.transform,
            )
            before[held_out] = scorer(None)
            scores = _scores(copy.deepcopy(adapter), data, scorer, options, whitening, after_step)
            after[:, held_out] += np.stack(scores) / repeats
    candidates = [
        Candidate(*way, *_mean_and_error((one - before)[sampled], groups[sampled]))
        for way, one in zip(ways, after, strict=True)
    ]
    good = [one for one in candidates if one.gain > max(_TO_ACCEPT * one.error, _LEAST_GAIN)]
    return Choice(
        best=max(good, key=lambda one: one.gain - _TO_CHOOSE * one.error, default=None),
        before=float(before[sampled].mean()),
        candidates=candidates,
    )


def _scores(
    adapter: nn.Module,
    data: TrainingSet,
    scorer: Scorer,
    options: TrainingOptions,
    whitening: Tensor | None,
    after_step: Callable[[float], bool],
) -> list[NDArray[np.float64]]:
    """Return the scores of an adapter as it came, and after each stage; then all whitened."""
    scores: list[NDArray[np.float64]] = []
    scores_whitened: list[NDArray[np.float64]] = []

    def look() -> None:
        scores.append(scorer(adapter))
        if whitening is not None:
            scores_whitened.append(scorer(folded(adapter, whitening)))

    look()
    train_in_stages(
        adapter,
        data,
        options,
        pulls(options),
        after_step=after_step,
        after_stage=look,
    )
    return scores + scores_whitened


def n_folds(rows: Rows) -> int:
    """Return the number of folds that a training set allows; below 2, none."""
    return min(_FOLDS, len(np.unique(rows.groups())))


def n_repeats(n_queries: int) -> int:
    """Return how many times a training set is divided into folds."""
    return min(_MAX_REPEATS, max(1, round(_ENOUGH_QUERIES / n_queries)))


def _sample(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the queries to use: whole groups, as many as it takes."""
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    n_kept = int(np.searchsorted(np.cumsum(sizes[order]), _MOST_QUERIES)) + 1
    kept = np.isin(groups, order[: max(_FOLDS, n_kept)])
    return np.flatnonzero(kept)


def _folds(
    groups: NDArray[np.int64], sampled: NDArray[np.int64], seed: int
) -> list[NDArray[np.int64]]:
    """Divide the sampled queries into folds of like size that keep groups whole."""
    present, size_of = np.unique(groups[sampled], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(present))
    members: list[list[int]] = [[] for _ in range(min(_FOLDS, len(present)))]
    filled = [0] * len(members)
    for i in order:
        fold = int(np.argmin(filled))
        members[fold].append(int(present[i]))
        filled[fold] += int(size_of[i])
    return [sampled[np.isin(groups[sampled], own)] for own in members]


def _mean_and_error(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float]:
    """Return the mean and its standard error where values of one group are not independent."""
    mean = float(values.mean())
    sums = np.bincount(groups, values - mean)
    n_groups = len(np.unique(groups))
    correction = n_groups / max(1, n_groups - 1)
    return mean, math.sqrt(float((sums**2).sum()) * correction) / len(values)
