"""The Trainer of a run, and its progress bar."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from llama_index.finetuning.embeddings.errors import TrainingError
from llama_index.finetuning.embeddings.files import output_errors
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.checkpoints import SEAL
from llama_index.finetuning.embeddings.sentence_transformer.evaluator import METRIC
from llama_index.finetuning.embeddings.sentence_transformer.lora import has_adapter
from llama_index.finetuning.embeddings.sentence_transformer.randomness import preserved
from llama_index.finetuning.embeddings.sentence_transformer.weights import Ended, evaluated_steps

_UNCHANGED = (
    "Checkpoints and an earlier model are unchanged; try a lower learning_rate, or "
    "precision='fp32'."
)
_ALL_WEIGHTS = "all_weights.safetensors"


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Sentence-transformers' Trainer with our batches, and a loss that must stay finite."""

    def __init__(self, *, batch_sampler: Callable[..., Any], **kwargs: Any) -> None:
        self._make_batch_sampler = batch_sampler
        super().__init__(**kwargs)
        # Transformers 5 would write the tokenizer's special tokens into the model's configuration,
        # of which a finetuned model may differ by its weights alone.
        self.processing_class = None
        self.add_callback(_Epochs(self))
        self.add_callback(_MissedEvaluation(self))
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
            (folder / f"checkpoint-{self.state.global_step}" / SEAL).unlink(missing_ok=True)
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and leave the state of randomness as it was: no checkpoint would know of it."""
        with preserved():
            scores: dict[str, float] = super().evaluate(*args, **kwargs)
        return scores

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


class _MissedEvaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluate at the end of an epoch that a run was killed at, behind its checkpoint."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Do so where a run goes on that evaluates after each epoch."""
        if args.eval_strategy != "epoch" or not state.global_step:
            return
        if float(state.epoch).is_integer() and state.global_step not in evaluated_steps(state):
            self._trainer.evaluate()
            if control.should_training_stop:
                raise Ended


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
