"""`RetrievalReport`, and the two ways to one."""

import dataclasses
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
)
from llama_index.finetuning.embeddings.errors import MissingExtraError
from llama_index.finetuning.embeddings.evaluation import (
    Comparison,
    DimensionResult,
    RetrievalResult,
    compare_results,
)
from llama_index.finetuning.embeddings.evaluation.compare import check_groups
from llama_index.finetuning.embeddings.evaluation.evaluate import DEFAULT_K_VALUES, check_sizes
from llama_index.finetuning.embeddings.evaluation.judgements import Relevance
from llama_index.finetuning.embeddings.evaluation.metrics import check_metric
from llama_index.finetuning.embeddings.evaluation.systems import (
    EvaluationOptions,
    evaluate_systems,
)
from llama_index.finetuning.embeddings.files import atomic_file
from llama_index.finetuning.embeddings.report import page, plots
from llama_index.finetuning.embeddings.report.tables import (
    Table,
    differences_table,
    dimensions_table,
    metrics_table,
    shown_metrics,
)
from llama_index.finetuning.embeddings.report.training import TrainingCurve, training_curve
from llama_index.finetuning.embeddings.search import Similarity
from llama_index.finetuning.embeddings.validation import check_integer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHOSEN_HERE = (
    "What is compared was chosen by these same queries, so the difference and its p-value are "
    "optimistic. Compare on queries that chose nothing."
)


@dataclass(frozen=True, eq=False, repr=False)
class RetrievalReport:
    """Several systems on one dataset: which is better, by how much, and whether that is luck.

    Attributes:
        comparison: Means, differences, verdicts and the worst-hit queries.
        dimensions: The main metric at each vector size, where sizes were asked for.
        general: The same comparison on a second dataset, to see what was forgotten.
        training: The course of the training, once `with_training` has read it.
        chosen_here: Whether the queries also chose a system, for instance the best checkpoint;
            all forms of the report then say what follows from that.
    """

    comparison: Comparison
    dimensions: list[DimensionResult] = field(default_factory=list)
    general: Comparison | None = None
    training: TrainingCurve | None = None
    chosen_here: bool = False

    def __repr__(self) -> str:
        return self.summary()

    @property
    def note(self) -> str:
        """What to bear in mind when reading the report; may be empty."""
        came_of_it = "" if self.training is None else self.training.summary
        chosen = _CHOSEN_HERE if self.chosen_here and self.comparison.differences else ""
        return " ".join(part for part in (came_of_it, chosen) if part)

    def with_training(
        self, source: str | os.PathLike[str] | Mapping[str, Any]
    ) -> "RetrievalReport":
        """Return the report with the training curve of a finetuned model.

        Args:
            source: The model's folder, its ``finetuning.json``, or what that file holds.

        Raises:
            ModelFolderError: There is no readable ``finetuning.json``.
        """
        curve = training_curve(source, self.comparison.metric)
        return dataclasses.replace(self, training=curve)

    def summary(self) -> str:
        """Return one sentence for each system, and for each on the general dataset."""
        lines = [self.comparison.sentence(system) for system in self.comparison.differences]
        lines += [self.note] if self.note else []
        if self.general is not None:
            lines += [
                f"On the general dataset: {self.general.sentence(system)}"
                for system in self.general.differences
            ]
        return (
            "\n".join(lines)
            or metrics_table(self.comparison, shown_metrics(self.comparison)).to_markdown()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python objects, texts of the worst-hit queries included."""
        return {
            "comparison": self.comparison.to_dict(),
            "dimensions": [dataclasses.asdict(one) for one in self.dimensions],
            "general": None if self.general is None else self.general.to_dict(),
            "training": None if self.training is None else dataclasses.asdict(self.training),
            "chosen_here": self.chosen_here,
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_pandas(self) -> Any:
        """Return a ``DataFrame`` with one row for each dataset, system and metric.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise MissingExtraError(
                "'to_pandas' needs 'pandas', which is not installed. Install it with: "
                "pip install pandas"
            ) from error
        rows = [{"dataset": "main", **row} for row in _rows(self.comparison)]
        if self.general is not None:
            rows += [{"dataset": "general", **row} for row in _rows(self.general)]
        return pandas.DataFrame(rows)

    def to_markdown(self) -> str:
        """Return sentences and tables for a model card or an issue; no text of the dataset."""
        parts = [_markdown(self.comparison, self.note)]
        if self.dimensions:
            parts.append(dimensions_table(self.comparison, self.dimensions).to_markdown())
        if self.general is not None:
            parts.append(f"On the general dataset:\n\n{_markdown(self.general)}")
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        parts = [page.verdicts(self.comparison, self.note)]
        parts += [table.to_html() for table in _tables(self.comparison)]
        if self.dimensions:
            parts.append(dimensions_table(self.comparison, self.dimensions).to_html())
        if self.general is not None:
            parts += ["<p>On the general dataset:</p>", page.verdicts(self.general)]
            parts += [table.to_html() for table in _tables(self.general)]
        return "".join(parts)

    def plot(self) -> "dict[str, Figure]":
        """Draw the report with matplotlib.

        Returns:
            ``"metrics"``, ``"queries"``, ``"dimensions"`` and ``"training"``, as far as there
            is something to show.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plots.draw(self.comparison, self.dimensions, self.training)

    def save_html(
        self, path: str | os.PathLike[str], *, title: str = "Has retrieval become better?"
    ) -> None:
        """Write one self-contained page, for a phone or a desk, in a light or a dark theme.

        It shows texts of the dataset: the worst-hit queries with their first documents. Without
        matplotlib the page has no pictures.

        Args:
            path: The file; one that stands there is replaced whole or not at all.
            title: The page's heading.

        Raises:
            OutputError: The file can't be written.
        """
        html = page.page(
            self.comparison,
            self.dimensions,
            self.general,
            self.training,
            title=title,
            note=self.note,
        )
        with atomic_file(path) as stream:
            stream.write(html)


def compare_retrieval(
    models: Mapping[str, BaseEmbedding],
    dataset: EmbeddingQAFinetuneDataset,
    *,
    metric: str = "ndcg@10",
    k_values: Sequence[int] = DEFAULT_K_VALUES,
    similarity: Similarity = "cosine",
    relevance: Relevance | None = None,
    bm25: bool = False,
    dims: Sequence[int] | None = None,
    groups: Mapping[str, str] | None = None,
    general_dataset: EmbeddingQAFinetuneDataset | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
    seed: int = 42,
) -> RetrievalReport:
    """Evaluate embedding models side by side, and say which differences are more than luck.

    Every model embeds the dataset once and is searched exactly. Each is then compared, query by
    query, with the first one; intervals and p-values come from resampling groups of queries
    that share a relevant document.

    Args:
        models: Name to embedding model, the reference first.
        dataset: Queries, corpus and relevant documents; none of it should have been trained on.
        metric: The main metric, by which verdicts are given.
        k_values: The cut-offs of the metrics.
        similarity: ``"cosine"`` (as ``VectorStoreIndex`` ranks by default) or ``"dot"``.
        relevance: Graded judgements, query id to document id to a relevance of at least 0, that
            take the place of ``relevant_docs``.
        bm25: Also compare with BM25 and with its reciprocal-rank fusion with the best of the
            models. That model is chosen by its score on this dataset.
        dims: Also evaluate these prefixes of the vectors, for Matryoshka models.
        groups: Query id to a group name; queries of a group are not independent. By default
            those that share a relevant document.
        general_dataset: Compare the models on this dataset too, to see what was forgotten.
        cache_dir: A folder that keeps the vectors for the next comparison.
        show_progress: Show progress bars.
        seed: Seeds the resampling.

    Raises:
        ConfigurationError: An argument is out of range.
        DatasetError: ``relevance`` or ``groups`` does not fit the dataset.
        EncodingError: A model returned unusable vectors.
        MissingExtraError: BM25 was asked for and bm25s is not installed.
    """
    dataset = require_dataset(dataset, name="dataset")
    k_values = check_sizes(k_values, "k_values")
    check_integer("seed", seed, minimum=0)
    check_metric(metric, k_values)
    check_groups(dataset, groups)
    if general_dataset is not None:
        general_dataset = require_dataset(general_dataset, name="general_dataset")
    options = EvaluationOptions(
        k_values=k_values,
        similarity=similarity,
        relevance=relevance,
        cache_dir=cache_dir,
        show_progress=show_progress,
    )
    results, dimensions = evaluate_systems(
        models, dataset, options, metric=metric, bm25=bm25, dims=dims
    )
    general = None
    if general_dataset is not None:
        plain = dataclasses.replace(options, relevance=None)
        found, _ = evaluate_systems(models, general_dataset, plain, metric=metric)
        general = compare_results(found, general_dataset, metric=metric, seed=seed)
    report = report_from_results(
        results, dataset, metric=metric, relevance=relevance, groups=groups, seed=seed
    )
    return dataclasses.replace(report, dimensions=dimensions, general=general)


def report_from_results(
    results: Mapping[str, RetrievalResult],
    dataset: EmbeddingQAFinetuneDataset,
    *,
    metric: str = "ndcg@10",
    relevance: Relevance | None = None,
    groups: Mapping[str, str] | None = None,
    seed: int = 42,
    chosen_here: bool = False,
) -> RetrievalReport:
    """Compare results that exist already; see `compare_retrieval` for the arguments.

    Args:
        results: System name to result, the reference first.
        dataset: What they are results on.
        metric: The main metric.
        relevance: The graded judgements that the results were scored with, if any.
        groups: Query id to a group name.
        seed: Seeds the resampling.
        chosen_here: Whether these queries also chose a system; see `RetrievalReport`.

    Raises:
        ConfigurationError: There is no result, one lacks ``metric`` or belongs to other queries
            or documents.
        DatasetError: ``relevance`` or ``groups`` does not fit the dataset.
    """
    comparison = compare_results(
        results, dataset, metric=metric, relevance=relevance, groups=groups, seed=seed
    )
    return RetrievalReport(comparison, chosen_here=chosen_here)


def _markdown(comparison: Comparison, note: str = "") -> str:
    parts = [f"- {comparison.sentence(system)}" for system in comparison.differences]
    parts += ["", note] if note else []
    tables = [table.to_markdown() for table in _tables(comparison)]
    return "\n\n".join([*(["\n".join(parts)] if parts else []), *tables])


def _tables(comparison: Comparison) -> list[Table]:
    means = metrics_table(comparison, shown_metrics(comparison))
    return [means, differences_table(comparison)] if comparison.differences else [means]


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for system, estimates in comparison.estimates.items():
        for metric, mean in estimates.items():
            row = {"system": system, "metric": metric, **dataclasses.asdict(mean)}
            if system in comparison.differences:
                found = dataclasses.asdict(comparison.differences[system][metric])
                row |= {f"difference_{name}": found.pop(name) for name in ("value", "low", "high")}
                row |= found
            yield row
