"""The training of an adapter on vectors."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.vectors import TrainingSet
from llama_index.finetuning.embeddings.errors import TrainingError

_BATCH_SIZES = (8, 1024)
_STEPS_PER_EPOCH = 20


def batch_size(options: TrainingOptions, n_pairs: int) -> int:
    """Return the pairs a step: as told, or so that an epoch has some 20 steps."""
    smallest, largest = _BATCH_SIZES
    return options.batch_size or min(largest, max(smallest, n_pairs // _STEPS_PER_EPOCH))


def steps_per_epoch(options: TrainingOptions, n_pairs: int) -> int:
    """Return the steps that make an epoch."""
    return options.steps_per_epoch or len(_starts(n_pairs, batch_size(options, n_pairs)))


def optimizer_for(adapter: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Build the optimizer of an adapter's parameters."""
    return options.optimizer_class(
        [parameter for parameter in adapter.parameters() if parameter.requires_grad],
        **{"lr": options.lr, **(options.optimizer_params or {})},
    )


def train(
    adapter: nn.Module,
    data: TrainingSet,
    options: TrainingOptions,
    *,
    pull: float,
    start: dict[str, Tensor],
    generator: torch.Generator,
    after_step: Callable[[float], bool],
) -> bool:
    """Train an adapter in place.

    Each step takes a batch of pairs and asks, by cross entropy over scaled cosine similarities,
    which of the candidates is the pair's document; the query's other relevant documents are no
    candidates, and its hard negatives count as often as told. The loss is that of
    ``MultipleNegativesRankingLoss`` (Henderson et al., 2017, https://arxiv.org/abs/1705.00652)
    with negatives from beyond the batch, plus the pull. The learning rate rises over the warm-up
    and falls linearly to zero.

    Args:
        adapter: What to train.
        data: What to train on.
        options: How.
        pull: Weight of the squared distance to ``start``.
        start: The parameters that the pull goes to, by name.
        generator: Source of the order of the pairs and of sampled negatives.
        after_step: Called with each step's loss; True ends the training.

    Returns:
        Whether ``after_step`` ended the training.

    Raises:
        TrainingError: The loss is not finite.
    """
    parameters = [(name, p) for name, p in adapter.named_parameters() if p.requires_grad]
    optimizer = optimizer_for(adapter, options)
    n_steps = options.epochs * steps_per_epoch(options, len(data.pairs))
    warmup = round(n_steps / 10) if options.warmup_steps is None else options.warmup_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_linear(warmup, n_steps))
    batches = _batches(data.pairs, batch_size(options, len(data.pairs)), generator)
    adapter.train()
    stopped = False
    for _ in range(n_steps):
        loss = ranking_loss(adapter, data, next(batches), options, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value}: training can't go on. Lower 'lr' (got {options.lr}), or "
                "check the adapter's 'forward'."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in parameters:
            if parameter.grad is not None:
                # The gradient of pull * ||parameter - start||^2, without the way through autograd.
                parameter.grad.add_(parameter.detach() - start[name], alpha=2 * pull)
        nn.utils.clip_grad_norm_([p for _, p in parameters], options.max_grad_norm)
        optimizer.step()
        schedule.step()
        stopped = after_step(value)
        if stopped:
            break
    adapter.eval()
    if not all(torch.isfinite(parameter).all() for _, parameter in parameters):
        raise TrainingError(
            f"The last step made weights NaN or infinite. Lower 'lr' (got {options.lr}), or check "
            "the adapter's 'forward'."
        )
    return stopped


def ranking_loss(
    adapter: nn.Module,
    data: TrainingSet,
    pairs: Tensor,
    options: TrainingOptions,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean cross entropy of some pairs, shape ``(n_pairs, 2)``."""
    queries, positives = pairs[:, 0], pairs[:, 1]
    candidates = data.candidates(positives, options.max_negatives, generator)
    target, mask = data.columns(queries, positives, candidates)
    both = options.transform == "both"

    def document_vectors(rows: Tensor) -> Tensor:
        vectors = data.documents[rows]
        return F.normalize(adapter(vectors), dim=-1) if both else vectors

    query_vectors = F.normalize(adapter(data.queries[queries]), dim=-1)
    scores = options.scale * query_vectors @ document_vectors(candidates).T
    scores = scores.masked_fill(mask, -torch.inf)
    if data.hard is not None and options.hard_negative_weight:
        hard = data.hard[queries]
        hard_vectors = document_vectors(hard.clamp(min=0))
        extra = options.scale * torch.einsum("pd,phd->ph", query_vectors, hard_vectors)
        # A weight w counts a document w times in the sum of exponentials.
        extra = extra + math.log(options.hard_negative_weight)
        scores = torch.cat([scores, extra.masked_fill(hard < 0, -torch.inf)], dim=1)
    return F.cross_entropy(scores, target)


def _batches(pairs: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of pairs for ever, in a new order each time round."""
    starts = _starts(len(pairs), size)
    while True:
        order = torch.randperm(len(pairs), generator=generator).to(pairs.device)
        for rows in order.tensor_split([*starts[1:]]):
            yield pairs[rows]


def _starts(n_pairs: int, size: int) -> range:
    """Return where the batches start; a last pair alone, too few for a BatchNorm, starts none."""
    return range(0, max(1, n_pairs - (size > 1)), size)


def _warm_then_linear(warmup: int, n_steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (n_steps - step) / max(1, n_steps - warmup))

    return factor
