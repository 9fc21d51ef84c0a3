"""The training options of the adapter engine, checked before anything is embedded."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from llama_index.finetuning.embeddings.adapters import Transform
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.validation import (
    Unset,
    check_integer,
    check_number,
    check_seed,
)

Negatives = Literal["relevant", "in_batch", "corpus"]

# Passing one of these says how to train, so nothing is left for auto to choose.
_TUNING = frozenset(
    (
        "batch_size",
        "epochs",
        "identity_pull",
        "lr",
        "max_grad_norm",
        "optimizer_class",
        "optimizer_params",
        "steps_per_epoch",
        "warmup_steps",
    )
)
# Each pull gets passes enough to settle, in steps that grow with the data.
_AUTO: dict[str, Any] = {"epochs": 4, "batch_size": None, "identity_pull": None}


@dataclass(frozen=True)
class TrainingOptions:
    """How an adapter is trained; each field is a keyword of the engine and of ``finetune()``.

    Attributes:
        epochs: Passes over the pairs of a query and a relevant document.
        batch_size: Pairs a step; None: so many that an epoch has some 20 steps.
        lr: Learning rate at its highest.
        identity_pull: Weight of the squared distance to the start (the identity, for a fresh
            adapter) in the loss; more of it keeps vectors closer to what the base gives. None:
            several, from strong to weak, one after the other.
        auto: Choose how far to go from the start, the untouched base included: by
            ``val_dataset`` where there is one, otherwise by cross-validation over documents.
            What is passed is kept. Cross-validation starts from the adapter as the engine was
            given it, whatever ``finetune()`` did before. None: choose unless an option that
            says how to train is passed, or there is no ``val_dataset`` and the adapter comes
            from a folder: it may have seen the documents that it would be judged by.
        val_dataset: What to choose the best step by, with nDCG@10, the base included.
        negatives: The documents that a query is trained against: all that are relevant to some
            training query, those of its batch, or every document of the corpus. Its own
            relevant documents are never among them.
        max_negatives: Documents a step beyond which they are sampled anew each step.
        hard_negative_weight: How many documents each of the dataset's hard negatives counts
            for with its query, whether or not it is relevant to another; 0 leaves them out.
        transform: Whose vectors the adapter changes: ``"query"`` leaves an index valid.
        whiten_queries: With ``auto`` and a fresh `LinearLayer` for queries, try a matrix behind it
            that takes weight from the directions in which all documents spread; it comes from at
            least 100 documents' vectors without any training.
        scale: Factor of the cosine similarities in the loss, the inverse of a temperature.
        steps_per_epoch: Steps that make an epoch; None: one pass over the pairs.
        warmup_steps: Steps until the learning rate is highest; None: a tenth of all.
        optimizer_class: Class of the optimizer.
        optimizer_params: Further arguments of the optimizer; its ``lr`` overrides ``lr``.
        max_grad_norm: Longer gradients are cut to this length; infinite: none is.
        evaluation_steps: Steps between two looks at ``val_dataset``; None: once an epoch.
        patience: Looks without an improvement after which training stops.
        checkpoint_path: Folder of the ``step_N`` checkpoints; None: no checkpoints.
        checkpoint_save_steps: Steps between two checkpoints.
        cache_dir: Folder of the on-disk cache of vectors; None: no cache.
        num_workers: Calls of the embedding model at a time.
        seed: Seed of all randomness.
        show_progress_bar: Show one.
        verbose: Log the loss of every step, not only the outcome.
    """

    epochs: int = 1
    batch_size: int | None = 10
    lr: float = 1e-3
    identity_pull: float | None = 0.1
    auto: bool | None = None
    val_dataset: EmbeddingQAFinetuneDataset | None = None
    negatives: Negatives = "relevant"
    max_negatives: int = 4096
    hard_negative_weight: float = 2.0
    transform: Transform = "query"
    whiten_queries: bool = True
    scale: float = 20.0
    steps_per_epoch: int | None = None
    warmup_steps: int | None = None
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam
    optimizer_params: Mapping[str, Any] | None = None
    max_grad_norm: float = 1.0
    evaluation_steps: int | None = None
    patience: int = 8
    checkpoint_path: str | None = None
    checkpoint_save_steps: int = 100
    cache_dir: str | os.PathLike[str] | None = None
    num_workers: int | None = None
    seed: int = 42
    show_progress_bar: bool = True
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "max_negatives", "patience", "checkpoint_save_steps"):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("batch_size", "steps_per_epoch", "evaluation_steps", "num_workers"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1, other="None or ")
        check_seed(self.seed)
        if self.warmup_steps is not None:
            check_integer("warmup_steps", self.warmup_steps, minimum=0, other="None or ")
        for name in ("lr", "scale"):
            check_number(name, getattr(self, name), above=True)
        if self.max_grad_norm != math.inf:  # which cuts none
            check_number("max_grad_norm", self.max_grad_norm, above=True)
        for name in ("identity_pull", "hard_negative_weight"):
            check_number(name, getattr(self, name) or 0.0)
        for name, choices in (("negatives", Negatives), ("transform", Transform)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigurationError(
                    f"{name!r} must be in {get_args(choices)} (got {getattr(self, name)!r})."
                )
        kind = self.optimizer_class
        if not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer):
            raise ConfigurationError(
                "'optimizer_class' must be a class of torch.optim (got "
                f"{getattr(kind, '__name__', repr(kind))})."
            )

    @property
    def cross_validates(self) -> bool:
        """Whether the training set itself has to tell how far to go."""
        return bool(self.auto) and self.val_dataset is None

    def parameters(self) -> dict[str, Any]:
        """Return what shapes the result, for ``finetuning.json``."""
        left_out = {"cache_dir", "num_workers", "show_progress_bar", "val_dataset", "verbose"}
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in left_out
        }


def parse(
    defaults: Mapping[str, Any], train_kwargs: Mapping[str, Any], *, trained_before: bool = False
) -> TrainingOptions:
    """Build the options from the engine's arguments and the keywords that override them.

    Args:
        defaults: The constructor's named arguments, an `Unset` number where one was not given.
        train_kwargs: What was passed by keyword.
        trained_before: The adapter may have been trained on the training set, which then can't
            judge it.

    Raises:
        ConfigurationError: A keyword is unknown, or a value can't work.
    """
    known = {field.name for field in fields(TrainingOptions)}
    unknown = sorted(set(train_kwargs) - known)
    if unknown:
        raise ConfigurationError(
            f"Unknown training options: {', '.join(unknown)}. Known ones: "
            f"{', '.join(sorted(known))}."
        )
    given = set(train_kwargs)
    given |= {name for name in defaults if not isinstance(defaults[name], Unset)}
    options = {**defaults, **train_kwargs}
    if options.get("auto") is None:
        blind = trained_before and options.get("val_dataset") is None
        options["auto"] = not (given & _TUNING or blind)
    if options["auto"]:
        options.update({name: value for name, value in _AUTO.items() if name not in given})
    parsed = TrainingOptions(**options)
    if parsed.cross_validates and trained_before:
        raise ConfigurationError(
            "'auto' needs 'val_dataset' for an adapter that was trained before (got auto=True and "
            "none): it may have seen the documents that cross-validation would judge it by. Pass "
            "a val_dataset, or auto=False."
        )
    return parsed
