"""The Trainer's arguments: the engine's choices, under what the user says."""

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments

from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.validation import check_integer

# Fields of the training arguments that are the engine's to choose, and where to say so instead.
_TAKEN = {
    "output_dir": "checkpoints go to checkpoints/<model_output_path>",
    "prompts": "'query_prompt' and 'text_prompt' of the engine are also used to evaluate and serve",
    "batch_sampler": "the engine's own batches are without false negatives",
    "multi_dataset_batch_sampler": "there is one dataset",
    "train_sampling_strategy": "the engine's own batches are without false negatives",
    "label_smoothing_factor": "no loss of sentence-transformers heeds it",
    "resume_from_checkpoint": "the engine has an argument of that name, which finds its own run",
    "seed": "the engine has an argument of that name, the one source of randomness",
    "data_seed": "the engine's 'seed' is the one source of randomness",
    "metric_for_best_model": "the best weights are those of the best nDCG@10",
    "greater_is_better": "the best weights are those of the best nDCG@10",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
        "the engine's push_to_hub() uploads the finished model",
    ),
}
_OTHER_NAMES = {
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
}

_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)

# An adapter of few weights takes so many times the learning rate of all weights (Schulman et al.
# 2025, "LoRA Without Regret").
LORA_RATES = 10

# Training arguments, by the beginnings of their names, that may change when a run is resumed.
_SHAPES_NO_WEIGHTS = (
    *("output_dir", "num_train_epochs", "max_steps", "local_rank", "resume_from_checkpoint"),
    *("eval_", "save_", "logging_", "log_", "report_to", "run_name", "project", "disable_tqdm"),
    *("hub_", "push_to_hub", "metric_for_best_model", "greater_is_better", "load_best_model"),
    *("dataloader_num_workers", "dataloader_pin", "dataloader_persist", "dataloader_prefetch"),
    "per_device_eval_batch_size",
)


def merge_training_args(
    defaults: dict[str, Any],
    given: TrainingArguments | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    learning_rate: Callable[[TrainingArguments], float] | None = None,
) -> TrainingArguments:
    """Lay the user's training arguments over the defaults, and a call's over both.

    Args:
        defaults: What the engine's own parameters ask for.
        given: A mapping of field names, or an instance, of which the fields count that differ
            from the class's own defaults.
        overrides: What ``finetune()`` was called with.
        learning_rate: Chooses the learning rate for the other arguments, where none was asked for.

    Raises:
        ConfigurationError: A name is no training argument, or a value is refused upstream.
    """
    if isinstance(given, TrainingArguments):
        given = changed_fields(given)
        if given.get("metric_for_best_model") == "loss":
            # Upstream fills these two in for some other fields.
            del given["metric_for_best_model"]
            given.pop("greater_is_better", None)
    elif given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(
            "'training_args' must be a dict or SentenceTransformerTrainingArguments "
            f"(got {type(given).__name__})."
        )
    asked = {**(given or {}), **overrides}
    if asked.get("gradient_checkpointing"):
        # The reentrant kind, the default of transformers 4, finds no gradient behind frozen layers.
        asked.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    for name, reason in _TAKEN.items():
        if name in asked:
            raise ConfigurationError(
                f"{name!r} is no choice of the training arguments: {reason} "
                f"(got {asked[name]!r}). Leave it out."
            )
    if asked.get("save_strategy", "no") != "no" and defaults["save_strategy"] == "no":
        raise ConfigurationError(
            "'save_strategy' needs a place for the checkpoints "
            f"(got {asked['save_strategy']!r}). Pass save_checkpoints=True to the engine."
        )
    if asked.get("eval_strategy", "no") != "no" and defaults["eval_strategy"] == "no":
        raise ConfigurationError(
            f"'eval_strategy' needs something to evaluate on (got {str(asked['eval_strategy'])!r})."
            " Pass val_dataset to the engine."
        )
    if {"warmup_steps", "warmup_ratio"} & asked.keys():
        # Two names for one thing: the user's must not be overruled by our other one.
        defaults = {name: value for name, value in defaults.items() if "warmup" not in name}
    if {"bf16", "fp16"} & asked.keys():
        defaults = {**defaults, "bf16": False, "fp16": False}
    # Upstream would set this for several processes, with a warning, and lose rows that our
    # sampler has in equally many batches for each.
    merged = {"dataloader_drop_last": True, **defaults, **asked}
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    for name in merged:
        if name not in known:
            close = difflib.get_close_matches(_OTHER_NAMES.get(name, name), known, n=3)
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            raise ConfigurationError(
                f"{name!r} is not a training argument of sentence-transformers.{hint}"
            )
    try:
        args = TrainingArguments(**merged)
        backwards = not args.learning_rate >= 0
        nothing = not (args.num_train_epochs > 0 or args.max_steps > 0)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The training arguments are refused: {error}") from error
    told = "logging_dir" in asked or "TENSORBOARD_LOGGING_DIR" in os.environ
    if "tensorboard" in args.report_to and defaults["save_strategy"] == "no" and not told:
        raise ConfigurationError(
            "'report_to' can't be TensorBoard without a place for its files. Pass "
            "save_checkpoints=True to the engine, which keeps them beside the checkpoints, or set "
            "the environment variable TENSORBOARD_LOGGING_DIR ('logging_dir' in transformers 4)."
        )
    for name in _AT_LEAST_ONE:
        check_integer(name, getattr(args, name), minimum=1)
        setattr(args, name, int(getattr(args, name)))
    if backwards:
        raise ConfigurationError(f"'learning_rate' must be at least 0 (got {args.learning_rate}).")
    if nothing:
        raise ConfigurationError(
            f"'num_train_epochs' must be above 0 (got {args.num_train_epochs}): nothing would be "
            "trained."
        )
    args.dataloader_drop_last = asked.get("dataloader_drop_last", False)
    if learning_rate is not None and "learning_rate" not in asked:
        args.learning_rate = learning_rate(args)
    return args


def default_learning_rate(args: TrainingArguments, n_rows: int, *, lora: bool) -> float:
    """Return the learning rate for all weights: 2e-5, and more where an epoch has few steps.

    The optimizer moves each weight by about the learning rate in a step, whatever the loss, so that
    half as many steps need twice the rate to come as far. The numbers are by experiment, see
    benchmarks/RESULTS.md.

    Args:
        args: Batch size and accumulation; the number of epochs does not count.
        n_rows: The rows of an epoch.
        lora: Only an adapter is trained.
    """
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = math.ceil(n_rows / (rows * distributed.world_size()))
    rate: float = min(5e-5, 2e-5 * max(1.0, 64 / steps)) * (LORA_RATES if lora else 1)
    return rate


def changed_fields(given: TrainingArguments) -> dict[str, Any]:
    """Return the fields that differ from the class's defaults, all but the folder."""
    usual = TrainingArguments(output_dir="unused")
    changed = {}
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        # An instance must name a folder.
        if field.init and field.name != "output_dir" and value != getattr(usual, field.name):
            changed[field.name] = value
    return changed


def precision_of(args: TrainingArguments) -> str:
    """Return ``"bf16"``, ``"fp16"`` or ``"fp32"``: what the steps are computed in."""
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def what_shapes_weights(args: TrainingArguments) -> dict[str, str]:
    """Return the fields that have to be the same for a run to be resumed."""
    fields = args.to_dict().items()
    return {name: str(one) for name, one in fields if not name.startswith(_SHAPES_NO_WEIGHTS)}
