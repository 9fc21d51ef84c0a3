"""Checkpoints: which are whole, whose they are, and where a run goes on."""

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME

from llama_index.finetuning.embeddings.files import atomic_file

logger = logging.getLogger(__name__)

SEAL = "complete.txt"


class CheckpointSeal(TrainerCallback):  # type: ignore[misc]
    """Mark each checkpoint once it is whole, with the run that it belongs to.

    Resuming then never starts from a checkpoint that was cut off, or from another run's.

    Args:
        fingerprint: What tells the run from others.
        limit: Checkpoints to keep; None: all. Those beyond are removed here and not by upstream,
            which would do so before the new one is marked: killed in between, a run would have
            nothing to go on from.
    """

    def __init__(self, fingerprint: str, limit: int | None) -> None:
        self._fingerprint = fingerprint
        self._limit = limit

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint that the Trainer has just finished, and remove the surplus."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not (state.is_world_process_zero and folder.is_dir()):
            return
        with atomic_file(folder / SEAL) as stream:
            stream.write(self._fingerprint)
        if self._limit:
            best = state.best_model_checkpoint if args.load_best_model_at_end else None
            _remove_surplus(folder.parent, self._limit, {folder, Path(best or folder)})


def _remove_surplus(folder: Path, limit: int, kept: set[Path]) -> None:
    others = [one for one in _checkpoints(folder) if one not in kept]
    # The useless ones first, then the oldest.
    others.sort(key=lambda one: (_seal(one) is not None, _step(one)))
    for checkpoint in others[: max(0, len(others) + len(kept) - limit)]:
        (checkpoint / SEAL).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


def unseal(folder: Path) -> None:
    """Take the marks from all checkpoints of a folder, so that no run resumes from them."""
    for seal in folder.glob(f"checkpoint-*/{SEAL}"):
        seal.unlink(missing_ok=True)


def last_checkpoint(
    folder: Path, fingerprint: str, args: TrainingArguments, best: Mapping[str, Any]
) -> Path | None:
    """Return the newest checkpoint that a run can go on from, None if there is none.

    Args:
        folder: Where the checkpoints are.
        fingerprint: What tells the run from others.
        args: How long the run is. It may be longer than the one of a checkpoint; what a longer
            one had trained, at other learning rates, is no part of it.
        best: What is known about the best weights beside them: their ``step``, the ``run`` that
            kept them, and its ``max_steps``.
    """
    if best.get("run") != fingerprint:
        best = {}
    runs = {checkpoint: _seal(checkpoint) for checkpoint in _checkpoints(folder)}
    usable = [
        checkpoint
        for checkpoint, run in runs.items()
        if run == fingerprint
        and (checkpoint / OPTIMIZER_NAME).is_file()
        and not _is_of_a_longer_run(checkpoint, args, best)
    ]
    if not usable and any(runs.values()):
        logger.warning(
            "The checkpoints in %s are another run's (other data, other settings, or a longer "
            "one), or without the optimizer's state: training begins anew, and overwrites them",
            folder,
        )
    return max(usable, key=_step, default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [one for one in folder.glob("checkpoint-*") if _step(one) >= 0]


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _is_of_a_longer_run(checkpoint: Path, args: TrainingArguments, best: Mapping[str, Any]) -> bool:
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        planned = _planned_steps(state, args)
        # A longer run may have gone on from it, and put its own best weights in the others' place.
        replaced = best.get("step", 0) > state.global_step and best.get("max_steps", 0) > planned
        return bool(state.max_steps > planned or replaced)
    except (ArithmeticError, OSError, TypeError, ValueError):
        return True  # being deleted, when the process was killed


def _planned_steps(state: TrainerState, args: TrainingArguments) -> int:
    """Return how many steps a run has, by the length of an epoch of the same data."""
    if args.max_steps > 0:
        return int(args.max_steps)
    # An epoch's last step may be of fewer batches, so that the ratio is too small within it.
    steps_of_epoch = math.ceil(round(state.global_step / state.epoch, 6))
    planned: int = math.ceil(args.num_train_epochs * steps_of_epoch)
    return planned


def _seal(checkpoint: Path) -> str | None:
    try:
        return (checkpoint / SEAL).read_text(encoding="utf-8")
    except OSError:
        return None
