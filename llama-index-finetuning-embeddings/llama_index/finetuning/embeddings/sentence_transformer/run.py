"""One finetuning run: train the weights that a model holds, and settle on what is handed back."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from llama_index.finetuning.embeddings.evaluation.evaluate import RetrievalResult
from llama_index.finetuning.embeddings.sentence_transformer import distributed
from llama_index.finetuning.embeddings.sentence_transformer.attention import fused_attention
from llama_index.finetuning.embeddings.sentence_transformer.checkpoints import (
    CheckpointSeal,
    last_checkpoint,
    unseal,
)
from llama_index.finetuning.embeddings.sentence_transformer.evaluator import (
    METRIC,
    RetrievalEvaluator,
)
from llama_index.finetuning.embeddings.sentence_transformer.fingerprint import fingerprint
from llama_index.finetuning.embeddings.sentence_transformer.frozen_layers import (
    frozen_first_layers,
    without_dropout,
)
from llama_index.finetuning.embeddings.sentence_transformer.length import set_max_seq_length
from llama_index.finetuning.embeddings.sentence_transformer.losses import bind
from llama_index.finetuning.embeddings.sentence_transformer.task import Task
from llama_index.finetuning.embeddings.sentence_transformer.trainer import Progress, Trainer
from llama_index.finetuning.embeddings.sentence_transformer.training_args import (
    precision_of,
    what_shapes_weights,
)
from llama_index.finetuning.embeddings.sentence_transformer.weights import (
    BestModel,
    Ended,
    SavedWeights,
    clear_best,
    evaluated_steps,
    known_best,
)
from llama_index.finetuning.embeddings.sentence_transformer.whitening import whitened

logger = logging.getLogger(__name__)

START_STEP = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a run; the model holds the weights that are handed back.

    Attributes:
        step: The step that these weights are of; `START_STEP`: those that the run began with.
        before: The result on the validation set of the weights that the run began with, if any.
        after: The result of what is handed back, if there is a validation set.
        best_trained: The best nDCG@10 of a trained step, where any was scored.
        whitening: What the queries' vectors are multiplied by, shape ``(dim, dim)``; None where
            they stay as they are.
        seconds: Phase to seconds.
        log: The Trainer's records; the first is of the start, if it was scored.
    """

    step: int
    before: RetrievalResult | None
    after: RetrievalResult | None
    best_trained: float | None
    whitening: Tensor | None
    seconds: dict[str, float]
    log: list[dict[str, Any]]

    @property
    def is_start(self) -> bool:
        """Whether the weights are those that the run began with."""
        return self.step == START_STEP

    def summary(self, base: RetrievalResult | None, *, start: str) -> str:
        """Tell in words what is handed back, and why.

        Args:
            base: The result of the untouched base on the validation set, if there is one.
            start: What the run began with, like ``"the base"``.
        """
        white = "" if self.whitening is None else ", with the queries whitened"
        if base is None or self.after is None:
            steps = "1 step" if self.step == 1 else f"{self.step:,} steps"
            return (
                f"Trained for {steps}{white}. No validation set was given, so nothing is known "
                "about the quality of what came of it."
            )
        reached = ndcg(self.after)
        if not self.is_start:
            return (
                f"The weights of step {self.step} are handed back{white}: nDCG@10 on the "
                f"validation set is {reached:.4f}, the base's {ndcg(base):.4f}."
            )
        tried = "" if self.best_trained is None else f" (the best one: {self.best_trained:.4f})"
        if self.whitening is None:
            return (
                f"No step of the training beat the nDCG@10 of {reached:.4f} that {start} has on "
                f"the validation set{tried}: {start} is handed back unchanged."
            )
        return (
            f"No step of the training{tried} scored better on the validation set than {start} with "
            f"the queries whitened: this is handed back, at nDCG@10 {reached:.4f}."
        )


class _Candidate(NamedTuple):
    """Weights that may be handed back, with whitened queries or without."""

    step: int
    whitening: Tensor | None
    result: RetrievalResult | None  # none where they could not be measured

    @property
    def score(self) -> float:
        return float("-inf") if self.result is None else ndcg(self.result)


class Run:
    """Train a model in place and keep the best of its weights.

    With an evaluator there are four candidates for what is handed back: the weights that the run
    began with and those of its best step, both of them as they are and with whitened queries, as
    far as there is a matrix for it. Of equals the one with less done to it is taken.

    Args:
        model: The model; an error or an interrupt leaves it as it was.
        task: What it trains on.
        args: The Trainer's arguments.
        folder: For checkpoints, and for the weights that are kept meanwhile.
        evaluator: Scores the model on the validation set, if there is one.
        choose_length: Tells the tokens of a text to train at; None leaves the model's own.
        identity: What makes two runs the same beside weights and arguments, so that only
            checkpoints of this one are gone on from.
        keeps_checkpoints: Whether checkpoints are written for other runs to go on from.
        resume: Go on from the last whole checkpoint of the same run, if any.
        patience: Stop after so many evaluations in a row that were not better.
        callbacks: Further callbacks for the Trainer.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        task: Task,
        args: TrainingArguments,
        folder: Path,
        *,
        evaluator: RetrievalEvaluator | None,
        choose_length: Callable[[], int | None],
        identity: Mapping[str, Any],
        keeps_checkpoints: bool,
        resume: bool,
        patience: int | None,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._model = model
        self._task = task
        self._args = args
        self._folder = folder
        self._evaluator = evaluator
        self._choose_length = choose_length
        self._identity = identity
        self._keeps_checkpoints = keeps_checkpoints
        self._resume = resume
        self._patience = patience
        self._callbacks = callbacks
        self._start = SavedWeights(model, folder / "start.safetensors")
        self._start_length = model.max_seq_length

    def outcome(self) -> Outcome:
        """Train, leave the chosen weights in the model, and tell what came of it."""
        if self._evaluator is not None:
            self._evaluator.batch_size = self._args.per_device_eval_batch_size
        self._start.save()
        try:
            return self._outcome()
        except BaseException:
            # The others of several processes may be gone, so that each reads for itself.
            if self._start.path.is_file():
                self._start.restore_here()
            set_max_seq_length(self._model, self._start_length)
            raise
        finally:
            if distributed.is_main():
                self._start.path.unlink(missing_ok=True)

    def _outcome(self) -> Outcome:
        began = time.perf_counter()
        before = self._scored()
        matrix = self._encode_frozen_documents()
        candidates = [
            _Candidate(START_STEP, None, before),
            _Candidate(START_STEP, matrix, self._whitened(matrix)),
        ]
        length = self._choose_length()
        if length is not None:
            set_max_seq_length(self._model, length)
        seconds = {"evaluate base": time.perf_counter() - began}
        began = time.perf_counter()
        trainer, best = self._train(before)
        seconds["train"] = time.perf_counter() - began
        log = list(trainer.state.log_history)
        if best is None or before is None:
            trainer.check_weights()
            return Outcome(
                step=trainer.state.global_step,
                before=None,
                after=None,
                best_trained=None,
                whitening=matrix,
                seconds=seconds,
                log=log,
            )
        scores = [
            record[f"eval_{METRIC}"]
            for record in log
            if f"eval_{METRIC}" in record and record["step"] != START_STEP
        ]
        if best.step != START_STEP:
            # In training the steps were scored in half precision, and without the matrix.
            best.restore()
            trained = _Candidate(best.step, None, self._scored())
            candidates += [
                trained,
                _Candidate(best.step, matrix, self._whitened(matrix)),
            ]
            scores = [trained.score]
        chosen = max(candidates, key=lambda candidate: candidate.score)  # the first of equals
        if chosen.step == START_STEP:
            self._start.restore()
            set_max_seq_length(self._model, self._start_length)
        of_start = {f"eval_{name}": value for name, value in before.metrics.items()}
        return Outcome(
            step=chosen.step,
            before=before,
            after=chosen.result,
            best_trained=max(scores, default=None),
            whitening=chosen.whitening,
            seconds=seconds,
            log=[{"step": START_STEP, **of_start}, *log],
        )

    def _scored(self) -> RetrievalResult | None:
        """Evaluate the present weights, if there is something to do so on."""
        return None if self._evaluator is None else self._evaluator.evaluate(self._model)

    def _whitened(self, matrix: Tensor | None) -> RetrievalResult | None:
        """Evaluate the present weights with their queries whitened, if they can be."""
        if matrix is None:
            return None
        with whitened(self._model, matrix):
            return self._scored()

    def _encode_frozen_documents(self) -> Tensor | None:
        """Embed the documents that queries alone are trained against; return what whitens them."""
        documents = self._task.frozen_documents
        if documents is None:
            return None
        halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
        known = {} if self._evaluator is None else self._evaluator.document_vectors()
        documents.encode(self._model, halves.get(precision_of(self._args)), known)
        return documents.whitening

    def _train(self, before: RetrievalResult | None) -> tuple[Trainer, BestModel | None]:
        run = self._fingerprint()
        bind(self._task.loss, self._model)
        checkpoint = self._resume_point(run)
        best = None
        limit, self._args.save_total_limit = self._args.save_total_limit, None
        callbacks = [CheckpointSeal(run, limit), *self._callbacks]
        if before is not None:
            best = BestModel(self._model, self._best_folder, run, patience=self._patience)
            best.offer(ndcg(before), START_STEP)
            callbacks.append(best)
        self._args.prompts = self._task.prompts
        trainer = Trainer(
            batch_sampler=self._task.batch_sampler,
            model=self._model,
            args=self._args,
            train_dataset=self._task.rows,
            loss=self._task.loss,
            evaluator=self._evaluator,
            data_collator=self._task.collator,
            callbacks=callbacks,
        )
        # Without a progress bar transformers would print every log line to standard output.
        trainer.remove_callback(PrinterCallback)
        if trainer.pop_callback(ProgressCallback) is not None:
            trainer.add_callback(Progress)
        ways = [fused_attention]
        if self._task.frozen_documents is not None:
            ways += [frozen_first_layers, without_dropout]
        try:
            with contextlib.ExitStack() as stack, contextlib.suppress(Ended):
                for way in ways:
                    stack.enter_context(way(self._model))
                trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            if best and trainer.state.global_step not in evaluated_steps(trainer.state):
                trainer.evaluate()
        finally:
            # The optimizer's state is as large as two models, and evaluation comes next.
            for holder in (trainer, trainer.callback_handler):
                holder.optimizer = holder.lr_scheduler = None
            trainer.accelerator.free_memory()
            # Mixed precision wraps the model's forward; what comes back must compute in fp32.
            trainer.accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
            self._args.save_total_limit = limit
        return trainer, best

    @property
    def _best_folder(self) -> Path:
        return self._folder / "best"

    def _resume_point(self, run: str) -> Path | None:
        """Return the checkpoint to go on from, and clear away what is not of this run."""
        if self._resume:
            # All processes go on from the same step; one that lacks the folder fails aloud.
            found = distributed.from_main(
                lambda: last_checkpoint(
                    self._folder, run, self._args, known_best(self._best_folder)
                )
            )
            checkpoint = None if found is None else self._folder / found.name
            logger.info("Resuming from %s", checkpoint or "the start: there is no checkpoint")
            if checkpoint is not None:
                return checkpoint
        if distributed.is_main():
            # Earlier checkpoints would be taken for this run's. Nor can they be gone on from
            # without the best weights beside them.
            if self._keeps_checkpoints or self._best_folder.is_dir():
                unseal(self._folder)
            clear_best(self._best_folder)
        return None

    def _fingerprint(self) -> str:
        """Return what makes two runs the same, so that only checkpoints of this one are resumed."""
        # Reading gigabytes of weights pays only where checkpoints are there to be resumed.
        pays = self._keeps_checkpoints or self._resume
        return fingerprint(
            **self._identity,
            weights=self._start.digest() if pays else None,
            batching=self._task.batching,
            max_seq_length=finite(self._model.max_seq_length),
            loss=self._task.loss,
            training_args=what_shapes_weights(self._args),
        )


def ndcg(result: RetrievalResult) -> float:
    """Return what results are compared by."""
    return result.metrics["ndcg@10"]


def finite(length: float | None) -> int | None:
    """Return a model's length as a whole number, None where it has no limit."""
    return None if length is None or length == float("inf") else int(length)
