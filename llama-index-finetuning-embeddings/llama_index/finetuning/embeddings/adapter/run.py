"""One training run: choose how far to go, train, keep the best, and say what came of it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.scoring import Scorer, adapted
from llama_index.finetuning.embeddings.adapter.selection import (
    Choice,
    copy_of,
    cross_validate,
    folded,
    n_folds,
    n_repeats,
    pulls,
    train_in_stages,
)
from llama_index.finetuning.embeddings.adapter.training import steps_per_epoch
from llama_index.finetuning.embeddings.adapter.vectors import Rows, TrainingSet, Vectors
from llama_index.finetuning.embeddings.adapters import is_identity
from llama_index.finetuning.embeddings.evaluation import RetrievalResult, evaluate_vectors
from llama_index.finetuning.embeddings.whitening import whitening_matrix

logger = logging.getLogger(__name__)

_METRIC = "ndcg@10"
_LOG_RECORDS = 200
_WHITENED = ", then whitened by the documents' spread"


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        is_base: The base is handed back, not what was trained.
        summary: What happened, in words.
        metrics: ``before`` and ``after``, where they were measured.
        log: Records of ``step`` and ``loss``, or of ``step`` and the validation metric.
        results: The base's and the finetuned model's results on the validation set, if any.
        seconds: Phase to seconds, where there was one.
    """

    is_base: bool
    summary: str
    metrics: dict[str, Any]
    log: list[dict[str, float]]
    results: dict[str, RetrievalResult] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Best:
    """The best weights seen on the validation set; None are the base's."""

    score: float
    weights: dict[str, Tensor] | None = None
    step: int = 0
    looks_since: int = 0

    def offer(self, score: float, adapter: nn.Module, step: int) -> None:
        self.looks_since += 1
        if score > self.score:
            self.score, self.weights, self.step, self.looks_since = score, copy_of(adapter), step, 0


def outcome_without_training(rows: Rows, options: TrainingOptions) -> Outcome | None:
    """Return what is known to come of a training set before it is embedded, or None."""
    if not options.cross_validates or n_folds(rows) > 1:
        return None
    summary = (
        "All queries share their documents, so that none can be held out to see whether "
        "training helps: the base is handed back unchanged. Pass val_dataset, or "
        "auto=False to train all the same."
    )
    return Outcome(is_base=True, summary=summary, metrics={}, log=[])


class Run:
    """Train an adapter in place.

    Args:
        adapter: The adapter.
        vectors: The training set, as the base embeds it.
        validation: The validation set, if any.
        options: How to train.
        save_checkpoint: Called with the number of each step that is to be kept.
    """

    def __init__(
        self,
        adapter: nn.Module,
        vectors: Vectors,
        validation: Vectors | None,
        options: TrainingOptions,
        *,
        save_checkpoint: Callable[[int], None],
    ) -> None:
        self._adapter = adapter.to(vectors.queries.device)
        self._options = options
        self._vectors = self._prepared(vectors)
        self._validation = None if validation is None else self._prepared(validation)
        self._whitening = self._find_whitening()
        self._save_checkpoint = save_checkpoint
        self._log: list[dict[str, float]] = []

    def outcome(self) -> Outcome:
        """Train, leave the chosen weights in the adapter, and tell what came of it."""
        device = self._vectors.queries.device
        # Custom adapters may draw from torch's own generator; it is handed back as it was.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._options.seed)
            if self._validation is not None:
                return self._validated(self._validation)
            if self._options.auto:
                return self._cross_validated()
            steps = self._train(pulls(self._options))
        return Outcome(
            is_base=False,
            summary=(
                f"Trained for {steps:,} steps as told. Whether that helps was not measured: pass "
                "val_dataset or, unless the adapter was trained before, auto=True."
            ),
            metrics={},
            log=self._log,
        )

    def _find_whitening(self) -> Tensor | None:
        """Return the matrix to try behind the adapter, if any."""
        options = self._options
        wanted = options.auto and options.whiten_queries and options.transform == "query"
        if not (wanted and is_identity(self._adapter)):
            return None
        documents, validation = self._vectors.documents, self._validation
        if validation is not None:
            known = set(self._vectors.texts())
            rows = [i for i, text in enumerate(validation.texts()) if text not in known]
            documents = torch.cat([documents, validation.documents[rows]])
        return whitening_matrix(documents)

    def _validated(self, validation: Vectors) -> Outcome:
        scorer = Scorer(
            validation.queries,
            validation.documents,
            validation.rows.relevant,
            self._options.transform,
        )
        before = after = self._result(validation, None)
        best = _Best(float(scorer(None).mean()))
        start = copy_of(self._adapter)
        best.offer(float(scorer(self._adapter).mean()), self._adapter, 0)
        best.looks_since = 0  # the start is no look at what training brings
        steps = self._train(pulls(self._options), scorer, best)
        is_whitened = self._whitening is not None and self._try_whitening(
            self._whitening, scorer, best, start
        )
        if best.weights is not None:
            self._adapter.load_state_dict(best.weights)
            after = self._result(validation, self._adapter)
        # The scorer takes documents of one text as one, the result does not: they may disagree.
        is_base = best.weights is None or after.metrics[_METRIC] < before.metrics[_METRIC]
        if is_base:
            after, best.step = before, 0
            summary = (
                f"No step of {steps:,} was better than the base on the validation set (nDCG@10 "
                f"{before.metrics[_METRIC]:.4f}): the base is handed back unchanged."
            )
        else:
            summary = (
                f"nDCG@10 on the validation set: {before.metrics[_METRIC]:.4f} before, "
                f"{after.metrics[_METRIC]:.4f} after (best of {steps:,} steps: {best.step:,}"
                f"{_WHITENED * is_whitened})."
            )
        return Outcome(
            is_base=is_base,
            summary=summary,
            metrics={
                "before": before.metrics,
                "after": after.metrics,
                "best_step": best.step,
                "whitened": is_whitened and not is_base,
            },
            log=self._log,
            results={"base": before, "finetuned": after},
        )

    def _try_whitening(
        self, matrix: Tensor, scorer: Scorer, best: _Best, start: dict[str, Tensor]
    ) -> bool:
        """Offer the best weights with the matrix behind them, and tell whether they were better."""
        before = best.score
        self._adapter.load_state_dict(best.weights or start)
        product = folded(self._adapter, matrix)
        best.offer(float(scorer(product).mean()), product, best.step)
        return best.score > before

    def _cross_validated(self) -> Outcome:
        folds = n_folds(self._vectors.rows)
        trainings = folds * n_repeats(len(self._vectors.queries))
        with self._bar(trainings * self._n_steps(len(pulls(self._options))), "Choosing") as bar:

            def count(_: float) -> bool:
                bar.update()
                return False

            choice = cross_validate(
                self._adapter,
                self._vectors,
                self._options,
                whitening=self._whitening,
                after_step=count,
            )
        best = choice.best
        if best is not None:
            self._train(pulls(self._options)[: best.stages])
            if best.whitened and self._whitening is not None:
                product = folded(self._adapter, self._whitening)
                self._adapter.load_state_dict(product.state_dict())
        trained = [one for one in choice.candidates if one.stages and not one.whitened]
        metrics = {
            "before": {_METRIC: choice.before},
            "after": {_METRIC: choice.before + (0.0 if best is None else best.gain)},
            "whitened": best is not None and best.whitened,
            "cross_validation": {
                "pulls": pulls(self._options),
                "gains": [one.gain for one in trained],
                "standard_errors": [one.error for one in trained],
                "candidates": [asdict(one) for one in choice.candidates],
            },
        }
        return Outcome(
            is_base=best is None,
            summary=_in_words(choice, folds),
            metrics=metrics,
            log=self._log,
        )

    def _train(
        self,
        stages: Sequence[float],
        scorer: Scorer | None = None,
        best: _Best | None = None,
    ) -> int:
        """Train in stages; returns the number of steps taken."""
        options = self._options
        data = self._training_set()
        n_steps = self._n_steps(len(stages))
        log_every = max(1, n_steps // _LOG_RECORDS)
        look_every = options.evaluation_steps or steps_per_epoch(options, len(data.pairs))
        step = 0
        losses: list[float] = []

        def after_step(loss: float) -> bool:
            nonlocal step
            step += 1
            bar.update()
            losses.append(loss)
            if options.verbose:
                logger.info("Step %d of %d: loss %.4f", step, n_steps, loss)
            if step % log_every == 0 or step == n_steps:
                self._log.append({"step": step, "loss": sum(losses) / len(losses)})
                losses.clear()
            if options.checkpoint_path is not None and step % options.checkpoint_save_steps == 0:
                self._save_checkpoint(step)
            if scorer is None or best is None or (step % look_every and step < n_steps):
                return False
            score = float(scorer(self._adapter).mean())
            self._log.append({"step": step, _METRIC: score})
            best.offer(score, self._adapter, step)
            return best.looks_since >= options.patience

        with self._bar(n_steps, "Training") as bar:
            train_in_stages(self._adapter, data, options, stages, after_step=after_step)
        return step

    def _training_set(self) -> TrainingSet:
        everything = range(len(self._vectors.queries))
        return TrainingSet(self._vectors, self._options.negatives, use=everything)

    def _n_steps(self, n_stages: int) -> int:
        n_pairs = sum(len(own) for own in self._vectors.rows.positives)
        return n_stages * self._options.epochs * steps_per_epoch(self._options, n_pairs)

    def _prepared(self, vectors: Vectors) -> Vectors:
        """Scale documents to length one once, unless the adapter is to get them as they are."""
        if self._options.transform == "both":
            return vectors
        return replace(vectors, documents=F.normalize(vectors.documents, dim=-1))

    def _result(self, validation: Vectors, adapter: nn.Module | None) -> RetrievalResult:
        """Return the result on the validation set, as `evaluate_retrieval` would."""
        dataset = validation.dataset
        queries, documents = validation.queries, validation.documents
        if adapter is not None:
            queries = adapted(adapter, queries)
            if self._options.transform == "both":
                documents = adapted(adapter, documents)
        rows = [validation.rows.row_of[docid] for docid in dataset.corpus]
        return evaluate_vectors(queries.cpu().numpy(), documents.cpu().numpy()[rows], dataset)

    def _bar(self, total: int, description: str) -> "tqdm[Any]":
        return tqdm(
            total=total,
            desc=description,
            unit="step",
            disable=not self._options.show_progress_bar,
        )


def _in_words(choice: Choice, folds: int) -> str:
    """Tell what cross-validation found."""
    found = f"By {folds}-fold cross-validation over documents (nDCG@10 of the base there "
    found += f"{choice.before:.4f})"
    if choice.best is None:
        best = max(choice.candidates, key=lambda one: one.gain)
        return (
            f"{found}, no strength of training is measurably better than the base (best: "
            f"{best.gain:+.4f} ± {best.error:.4f}): the base is handed back unchanged."
        )
    best = choice.best
    n_stages = max(one.stages for one in choice.candidates)
    return (
        f"{found}, the chosen strength of training ({best.stages} of {n_stages}"
        f"{_WHITENED * best.whitened}) gains {best.gain:+.4f} ± {best.error:.4f}."
    )
