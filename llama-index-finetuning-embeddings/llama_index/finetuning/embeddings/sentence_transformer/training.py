"""The Trainer, its checkpoints, and the callback that remembers the best weights."""

import contextlib
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from llama_index.finetuning.embeddings.errors import TrainingError
from llama_index.finetuning.embeddings.files import atomic_file, output_errors, read_json_object
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.lora import has_adapter
from llama_index.finetuning.embeddings.sentence_transformer.validation import METRIC

logger = logging.getLogger(__name__)

_SEAL = "complete.txt"
_UNCHANGED = (
    "Checkpoints and an earlier model are unchanged; try a lower learning_rate, or "
    "precision='fp32'."
)
_BEST_WEIGHTS = "model.safetensors"
_BEST_FACTS = "best.json"
_ALL_WEIGHTS = "all_weights.safetensors"


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Sentence-transformers' Trainer with our batches, and a loss that must stay finite."""

    def __init__(self, *, batch_sampler: Callable[..., Any], **kwargs: Any) -> None:
        self._make_batch_sampler = batch_sampler
        super().__init__(**kwargs)
        self.add_callback(_Epochs(self))
        self.sampler: Any = None

    def get_batch_sampler(
        self, dataset: Any, batch_size: int, drop_last: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Return our sampler for the training rows."""
        self.sampler = self._make_batch_sampler(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            n_processes=self.accelerator.num_processes,
        )
        return self.sampler

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave out upstream's model card, which would quote the user's documents."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check_weights()
        folder = Path(self.args.output_dir)
        if distributed.is_main():
            # One of an earlier run that is written over is not whole for a while.
            (folder / f"checkpoint-{self.state.global_step}" / _SEAL).unlink(missing_ok=True)
        with output_errors(folder):
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)
        if has_adapter(self.model):
            # What upstream wrote is the adapter alone, which it can't load again.
            save_model(self.model, str(Path(output_dir or self.args.output_dir) / _ALL_WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str, *args: Any, **kwargs: Any) -> None:
        if not has_adapter(self.model):
            super()._load_from_checkpoint(checkpoint_path, *args, **kwargs)
            return
        weights = str(Path(checkpoint_path) / _ALL_WEIGHTS)
        load_model(self.model, weights, device=str(self.model.device))

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, and stop at the first that is NaN or infinite.

        Raises:
            TrainingError: It is; the message names the step.
        """
        result = super().compute_loss(*args, **kwargs)
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. {_UNCHANGED}"
            )
        return result

    def check_weights(self) -> None:
        """Make sure that the last step left no weight NaN or infinite, which no loss has shown yet.

        Raises:
            TrainingError: It did; the message names the step.
        """
        for name, weights in self.model.named_parameters():
            if weights.requires_grad and not torch.isfinite(weights).all():
                raise TrainingError(
                    f"Step {self.state.global_step} made weights of {name!r} NaN or infinite. "
                    f"{_UNCHANGED}"
                )


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tell the sampler which epoch begins.

    Upstream does not in every version where several processes share the batches or a run is
    resumed, and every epoch would have the batches of the first.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch on."""
        self._trainer.sampler.set_epoch(int(state.epoch or 0))


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


def unseal(folder: Path) -> None:
    """Take the marks from all checkpoints of a folder, so that no run resumes from them."""
    for seal in folder.glob(f"checkpoint-*/{_SEAL}"):
        seal.unlink(missing_ok=True)


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


class SavedWeights:
    """A model's weights on disk, to be put back later.

    Args:
        model: The model.
        path: Where they go; the main process writes, and reads for all.
    """

    def __init__(self, model: SentenceTransformer, path: Path) -> None:
        self._model = model
        self.path = path

    def save(self) -> None:
        """Write the model's present weights, in the main process only."""
        if distributed.is_main():
            with output_errors(self.path):
                save_model(self._model, str(self.path))

    def digest(self) -> str:
        """Return a SHA-256 of the saved weights, the same in every process."""

        def computed() -> str:
            digest = hashlib.sha256()
            # Not over the file, which names shared weights in any order.
            with safe_open(str(self.path), framework="pt") as weights:
                for name in sorted(weights.keys()):
                    digest.update(name.encode())
                    flat = weights.get_tensor(name).reshape(-1)
                    digest.update(flat.view(torch.uint8).numpy().data)
            return digest.hexdigest()

        return distributed.from_main(computed)

    def restore(self) -> None:
        """Put the saved weights into the model of every process."""
        distributed.from_main(self.restore_here)
        distributed.share_weights(self._model)

    def restore_here(self) -> None:
        """Put the saved weights into the model of this process."""
        load_model(self._model, str(self.path), device=str(self._model.device))


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
        self._weights = SavedWeights(model, folder / _BEST_WEIGHTS)
        self.restore = self._weights.restore
        self._facts = folder / _BEST_FACTS
        self._fingerprint = fingerprint
        self._patience = patience
        folder.mkdir(parents=True, exist_ok=True)
        self.last_step = 0

    @property
    def step(self) -> int:
        """The step of the best weights; 0 is the untouched base."""
        return distributed.from_main(lambda: int(read_json_object(self._facts)["step"]))

    @property
    def score(self) -> float:
        """The best weights' score; minus infinity before the first."""
        if not (self._facts.is_file() and self._weights.path.is_file()):
            return float("-inf")
        facts = read_json_object(self._facts)
        return float(facts["score"]) if facts["run"] == self._fingerprint else float("-inf")

    def offer(self, score: float, step: int) -> None:
        """Keep the model's present weights if they score better than all before."""
        self.last_step = step
        distributed.from_main(functools.partial(self._keep_if_better, score, step))

    def _keep_if_better(self, score: float, step: int) -> None:
        if score <= self.score:
            return
        # Without the facts the weights count as absent, so that the two never disagree.
        self._facts.unlink(missing_ok=True)
        self._weights.save()
        with atomic_file(self._facts) as stream:
            json.dump({"score": score, "step": step, "run": self._fingerprint}, stream)

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


def clear_best(folder: Path, *, beyond: float = -1) -> None:
    """Remove the weights that an earlier run kept; what else is there belongs to another one.

    Args:
        folder: Where they are.
        beyond: Those of this step and of earlier ones stay.
    """
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
        if int(read_json_object(folder / _BEST_FACTS)["step"]) <= beyond:
            return
    for name in (_BEST_FACTS, _BEST_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def last_checkpoint(folder: Path, fingerprint: str, args: TrainingArguments) -> Path | None:
    """Return the newest whole checkpoint of a run, None if there is none.

    Args:
        folder: Where the checkpoints are.
        fingerprint: What tells the run from others.
        args: How long the run is. It may be longer than the one of a checkpoint; what a longer
            one had trained, at other learning rates, is no part of it.
    """
    runs = {one: _seal(one) for one in folder.glob("checkpoint-*") if _step(one) >= 0}
    sealed = [
        checkpoint
        for checkpoint, run in runs.items()
        if run == fingerprint and not _is_of_a_longer_run(checkpoint, args)
    ]
    if not sealed and any(runs.values()):
        logger.warning(
            "The checkpoints in %s are another run's (other data, other settings, or a longer "
            "one): training begins anew, and overwrites them",
            folder,
        )
    return max(sealed, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def planned_steps(checkpoint: Path, args: TrainingArguments) -> int:
    """Return how many steps a run has, by the length of an epoch in a checkpoint of the same data.

    Raises:
        OSError: The checkpoint has lost its state.
        ValueError: Its state is damaged; TypeError too.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if args.max_steps > 0:
        return int(args.max_steps)
    steps_of_epoch = round(state.global_step / state.epoch)
    planned: int = math.ceil(round(args.num_train_epochs * steps_of_epoch, 6))
    return planned


def _is_of_a_longer_run(checkpoint: Path, args: TrainingArguments) -> bool:
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        return bool(state.max_steps > planned_steps(checkpoint, args))
    except (ArithmeticError, OSError, TypeError, ValueError):
        return True  # being deleted, when the process was killed


def _seal(checkpoint: Path) -> str | None:
    try:
        return (checkpoint / _SEAL).read_text(encoding="utf-8")
    except OSError:
        return None
