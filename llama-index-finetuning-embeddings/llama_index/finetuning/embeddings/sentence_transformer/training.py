"""The Trainer, its arguments, and the callback that remembers the best weights."""

import dataclasses
import difflib
import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from llama_index.finetuning.embeddings.errors import ConfigurationError, TrainingError
from llama_index.finetuning.embeddings.files import atomic_file, output_errors, read_json_object
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.validation import METRIC

logger = logging.getLogger(__name__)

_SEAL = "complete.txt"


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Sentence-transformers' Trainer with our batches, and a loss that must stay finite."""

    def __init__(self, *, batch_sampler: Callable[..., Any], **kwargs: Any) -> None:
        self._make_batch_sampler = batch_sampler
        super().__init__(**kwargs)

    def get_batch_sampler(
        self, dataset: Any, batch_size: int, drop_last: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Return our sampler for the training rows."""
        return self._make_batch_sampler(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            n_processes=self.accelerator.num_processes,
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave out upstream's model card, which would quote the user's documents."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with output_errors(Path(self.args.output_dir)):
            super()._save_checkpoint(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, and stop at the first that is NaN or infinite.

        Raises:
            TrainingError: It is; the message names the step.
        """
        result = super().compute_loss(*args, **kwargs)
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. Checkpoints and "
                "an earlier model are unchanged; try a lower learning_rate, or precision='fp32'."
            )
        return result


class CheckpointSeal(TrainerCallback):  # type: ignore[misc]
    """Mark each checkpoint once it is whole, with the run that it belongs to.

    Resuming then never starts from a checkpoint that was cut off, or from another run's.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint that the Trainer has just finished."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            with atomic_file(folder / _SEAL) as stream:
                stream.write(self._fingerprint)


class Progress(ProgressCallback):  # type: ignore[misc]
    """A progress bar that shows the latest loss beside it, not a line for every log entry."""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss, or the metric of an evaluation."""
        shown = {"loss": "loss", f"eval_{METRIC}": "nDCG@10"}
        news = {name: (logs or {})[key] for key, name in shown.items() if key in (logs or {})}
        if self.training_bar is not None and news:
            self.training_bar.set_postfix({name: f"{float(x):.4f}" for name, x in news.items()})


class BestModel(TrainerCallback):  # type: ignore[misc]
    """Keep the weights that scored best on the validation set, on disk.

    Args:
        model: The model in training.
        folder: Where the weights and their score go; those of the same run (one that is resumed)
            are gone on with.
        fingerprint: What tells the run from others.
        patience: Stop the training after so many evaluations in a row that were not better.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        folder: Path,
        fingerprint: str,
        *,
        patience: int | None = None,
    ) -> None:
        self._model = model
        self._weights = folder / "model.safetensors"
        self._facts = folder / "best.json"
        self._fingerprint = fingerprint
        self._patience = patience
        folder.mkdir(parents=True, exist_ok=True)
        self.history: list[dict[str, float]] = []

    @property
    def step(self) -> int:
        """The step of the best weights; 0 is the untouched base."""
        return distributed.from_main(lambda: int(read_json_object(self._facts)["step"]))

    @property
    def score(self) -> float:
        """The best weights' score; minus infinity before the first."""
        if not (self._facts.is_file() and self._weights.is_file()):
            return float("-inf")
        facts = read_json_object(self._facts)
        return float(facts["score"]) if facts["run"] == self._fingerprint else float("-inf")

    def offer(self, score: float, step: int) -> None:
        """Keep the model's present weights if they score better than all before."""
        self.history.append({"step": step, "ndcg@10": score})
        distributed.from_main(functools.partial(self._keep_if_better, score, step))

    def _keep_if_better(self, score: float, step: int) -> None:
        if score <= self.score:
            return
        with output_errors(self._weights):
            # Without the facts the weights count as absent, so that the two never disagree.
            self._facts.unlink(missing_ok=True)
            save_model(self._model, str(self._weights))
        with atomic_file(self._facts) as stream:
            json.dump({"score": score, "step": step, "run": self._fingerprint}, stream)

    def restore(self) -> None:
        """Put the best weights into the model of every process."""
        distributed.from_main(
            lambda: load_model(self._model, str(self._weights), device=str(self._model.device))
        )
        distributed.share_weights(self._model)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        """Offer the weights that were just evaluated, and stop where patience is at its end."""
        self.offer(metrics[f"eval_{METRIC}"], state.global_step)
        # The log comes with a checkpoint, so that a resumed run counts what the first one saw.
        if self._patience is None:
            return
        best = self.step
        evaluated = [e["step"] for e in state.log_history if f"eval_{METRIC}" in e]
        if sum(step > best for step in evaluated) >= self._patience:
            control.should_training_stop = True


def merge_training_args(
    defaults: dict[str, Any],
    given: TrainingArguments | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
) -> TrainingArguments:
    """Lay the user's training arguments over the defaults, and a call's over both.

    Args:
        defaults: What the engine's own parameters ask for.
        given: A mapping of field names, or an instance, of which the fields count that differ
            from the class's own defaults.
        overrides: What ``finetune()`` was called with.

    Raises:
        ConfigurationError: A name is no training argument, or a value is refused upstream.
    """
    if isinstance(given, TrainingArguments):
        given = _changed_fields(given)
    elif given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(
            "'training_args' must be a dict or SentenceTransformerTrainingArguments "
            f"(got {type(given).__name__})."
        )
    asked = {**(given or {}), **overrides}
    if "output_dir" in asked:
        raise ConfigurationError(
            "'output_dir' is no choice of the training arguments: checkpoints go to "
            f"checkpoints/<model_output_path> (got {asked['output_dir']!r}). Leave it out."
        )
    if {"warmup_steps", "warmup_ratio"} & asked.keys():
        # Two names for one thing: the user's must not be overruled by our other one.
        defaults = {name: value for name, value in defaults.items() if "warmup" not in name}
    # Upstream would set this for several processes, with a warning, and lose rows that our
    # sampler has in equally many batches for each.
    merged = {"dataloader_drop_last": True, **defaults, **asked}
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    for name in merged:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            raise ConfigurationError(
                f"{name!r} is not a training argument of sentence-transformers.{hint}"
            )
    try:
        args = TrainingArguments(**merged)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The training arguments are refused: {error}") from error
    args.dataloader_drop_last = asked.get("dataloader_drop_last", False)
    return args


def _changed_fields(given: TrainingArguments) -> dict[str, Any]:
    usual = TrainingArguments(output_dir="unused")
    changed = {}
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        # An instance must name a folder; checkpoints go to the engine's own.
        if field.init and field.name != "output_dir" and value != getattr(usual, field.name):
            changed[field.name] = value
    return changed


def last_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """Return the newest whole checkpoint of a run, None if there is none."""
    sealed = [
        checkpoint
        for checkpoint in folder.glob("checkpoint-*")
        if _step(checkpoint) >= 0 and _seal(checkpoint) == fingerprint
    ]
    return max(sealed, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _seal(checkpoint: Path) -> str | None:
    try:
        return (checkpoint / _SEAL).read_text(encoding="utf-8")
    except OSError:
        return None
