"""Weights kept on disk: those that a run starts from, and the best that it comes to."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, TrainerControl, TrainerState

from llama_index.finetuning.embeddings.files import atomic_file, output_errors, read_json_object
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.evaluator import METRIC

_BEST_WEIGHTS = "model.safetensors"
_BEST_FACTS = "best.json"


class Ended(Exception):
    """A run that goes on has nothing left to do."""


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

    @property
    def step(self) -> int:
        """The step of the best weights; 0 are those that the run began with."""
        return distributed.from_main(lambda: int(read_json_object(self._facts)["step"]))

    @property
    def score(self) -> float:
        """The best weights' score; minus infinity before the first."""
        if not (self._facts.is_file() and self._weights.path.is_file()):
            return float("-inf")
        facts = read_json_object(self._facts)
        return float(facts["score"]) if facts["run"] == self._fingerprint else float("-inf")

    def offer(self, score: float, step: int, *, max_steps: int = 0) -> None:
        """Keep the model's present weights if they score better than all before.

        Args:
            score: Theirs.
            step: The step that they are of.
            max_steps: The steps of the run.
        """
        facts = {"score": score, "step": step, "max_steps": max_steps, "run": self._fingerprint}
        distributed.from_main(functools.partial(self._keep_if_better, facts))

    def _keep_if_better(self, facts: Mapping[str, Any]) -> None:
        if facts["score"] <= self.score:
            return
        # Without the facts the weights count as absent, so that the two never disagree.
        self._facts.unlink(missing_ok=True)
        self._weights.save()
        with atomic_file(self._facts) as stream:
            json.dump(facts, stream)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        """Offer the weights that were just evaluated, and stop where patience is at its end."""
        score = metrics[f"eval_{METRIC}"]
        self.offer(score, state.global_step, max_steps=state.max_steps)
        if self._is_out_of_patience(state):
            control.should_training_stop = True

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a run that goes on where it had been stopped: upstream would take one more step."""
        if self._is_out_of_patience(state):
            raise Ended

    def _is_out_of_patience(self, state: TrainerState) -> bool:
        """Tell whether so many evaluations in a row were not better that training ends.

        The log comes with a checkpoint, so that a resumed run counts what the first one saw.
        """
        if self._patience is None:
            return False
        best = self.step
        return sum(step > best for step in evaluated_steps(state)) >= self._patience


def evaluated_steps(state: TrainerState) -> set[int]:
    """Return the steps that were evaluated, in a run and in those that it went on from."""
    return {entry["step"] for entry in state.log_history if f"eval_{METRIC}" in entry}


def known_best(folder: Path) -> dict[str, Any]:
    """Return what is known about the best weights in a folder; nothing where there are none."""
    try:
        return read_json_object(folder / _BEST_FACTS)
    except (OSError, ValueError):
        return {}


def clear_best(folder: Path) -> None:
    """Remove the weights that an earlier run kept; what else is there belongs to another one."""
    for name in (_BEST_FACTS, _BEST_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()
