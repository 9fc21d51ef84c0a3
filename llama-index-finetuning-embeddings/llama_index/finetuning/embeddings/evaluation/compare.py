"""Set the results of several systems side by side, with what is known about their differences."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError, shown
from llama_index.finetuning.embeddings.evaluation.evaluate import RetrievalResult
from llama_index.finetuning.embeddings.evaluation.judgements import Judgements, Relevance
from llama_index.finetuning.embeddings.evaluation.metrics import label
from llama_index.finetuning.embeddings.evaluation.significance import (
    MIN_CLUSTERS,
    TIE,
    Difference,
    Estimate,
    Verdict,
    difference,
    estimate,
    resampled_means,
    sign_flip_p_values,
)

_WORST_QUERIES = 5
_TOP_DOCUMENTS = 3


@dataclass(frozen=True)
class RankedDocument:
    """A retrieved document, and whether it is relevant to the query."""

    document_id: str
    text: str
    relevant: bool


@dataclass(frozen=True)
class QueryChange:
    """One query that a system answers worse than the reference.

    Attributes:
        query_id: Its id.
        query: Its text.
        before: The reference's value of the main metric.
        after: The system's value.
        relevant: The ids and texts of its relevant documents.
        top_before: The reference's first documents.
        top_after: The system's first documents.
    """

    query_id: str
    query: str
    before: float
    after: float
    relevant: dict[str, str]
    top_before: list[RankedDocument]
    top_after: list[RankedDocument]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several systems on one dataset, the first of which is the reference.

    Attributes:
        metric: The main metric, by which verdicts are given.
        n_queries: Queries of the dataset.
        n_documents: Documents of its corpus.
        n_clusters: Groups of queries that count as independent of one another.
        estimates: System to metric to mean with interval; the reference is the first system.
        differences: System to metric to difference from the reference; without the reference.
        changes: System to the difference of the main metric per query, shape (n_queries,); what
            is rounding is 0.
        worst: System to the queries that it answers worst compared with the reference.
        seed: What both resamplings were seeded with.
    """

    metric: str
    n_queries: int
    n_documents: int
    n_clusters: int
    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Difference]]
    changes: dict[str, NDArray[np.float64]]
    worst: dict[str, list[QueryChange]]
    seed: int

    @property
    def reference(self) -> str:
        """The name of the system that the others are compared with."""
        return next(iter(self.estimates))

    def verdict(self, system: str) -> Verdict:
        """Say in words how a system compares with the reference in the main metric."""
        return self.differences[system][self.metric].verdict

    def sentence(self, system: str) -> str:
        """Say how a system compares with the reference, by how much, and how sure that is."""
        seen = self.differences[system][self.metric]
        before, after = (
            self.estimates[name][self.metric].value for name in (self.reference, system)
        )
        verdict = {
            "better": f"{system} is better than {self.reference}",
            "worse": f"{system} is worse than {self.reference}",
            "no measurable change": f"No measurable change from {self.reference} to {system}",
        }[seen.verdict]
        few = (
            f" There are only {self.n_clusters} independent groups of queries, too few to tell: "
            f"at least {MIN_CLUSTERS} are needed."
            if self.n_clusters < MIN_CLUSTERS
            else ""
        )
        ends = seen.ends_text and f"95 % interval {seen.ends_text}, "
        return (
            f"{verdict}: {label(self.metric)} {before:.3f} → {after:.3f} ({seen.value:+.3f}, "
            f"{ends}p {seen.p_text}); "
            f"{seen.won:,} of {self.n_queries:,} queries won, {seen.lost:,} lost, "
            f"{seen.tied:,} tied.{few}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python objects that ``json.dumps`` takes; NaN is None."""
        return {
            "reference": self.reference,
            "metric": self.metric,
            "n_queries": self.n_queries,
            "n_documents": self.n_documents,
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "systems": {
                name: {metric: _plain(one) for metric, one in estimates.items()}
                for name, estimates in self.estimates.items()
            },
            "differences": {
                name: {metric: _plain(one) for metric, one in found.items()}
                for name, found in self.differences.items()
            },
            "verdicts": {name: self.verdict(name) for name in self.differences},
            "worst": {name: [asdict(one) for one in found] for name, found in self.worst.items()},
        }


def compare_results(
    results: Mapping[str, RetrievalResult],
    dataset: EmbeddingQAFinetuneDataset,
    *,
    metric: str = "ndcg@10",
    relevance: Relevance | None = None,
    groups: Mapping[str, str] | None = None,
    seed: int = 42,
) -> Comparison:
    """Compare results on one dataset with the first of them, query by query.

    Queries that share a relevant document, directly or through other queries, form a cluster;
    intervals come from a bootstrap and p-values from a sign-flip test over clusters. Where these
    are few the intervals are widened; where there is one, there is none.

    Args:
        results: System name to result, the reference first.
        dataset: What they are results on.
        metric: The main metric.
        relevance: The graded judgements that the results were scored with, if any.
        groups: Query id to the name of its cluster, instead of clusters by relevant document.
        seed: Seeds both resamplings.

    Raises:
        ConfigurationError: There is no result, one lacks ``metric`` or belongs to other queries
            or documents.
        DatasetError: ``groups`` or ``relevance`` does not fit the dataset.
    """
    _check_results(results, dataset, metric)
    check_groups(dataset, groups)
    judgements = Judgements(dataset, relevance)
    clusters = judgements.clusters() if groups is None else _labels(dataset, groups)
    n_clusters = int(clusters.max()) + 1
    metrics = [
        name
        for name in next(iter(results.values())).per_query
        if all(name in result.per_query for result in results.values())
    ]
    # Shape (n_systems, n_queries, n_metrics); resampled, the queries become 10,000 samples.
    tables = [
        np.column_stack([one.per_query[name] for name in metrics]) for one in results.values()
    ]
    sampled = resampled_means(np.hstack(tables), clusters, seed=seed)
    values, samples = np.stack(tables), np.stack(np.split(sampled, len(tables), axis=1))
    reference, *others = results
    estimates = {
        system: {
            name: estimate(samples[i, :, j], float(values[i, :, j].mean()), n_clusters)
            for j, name in enumerate(metrics)
        }
        for i, system in enumerate(results)
    }
    differences: dict[str, dict[str, Difference]] = {}
    for i, system in enumerate(others, start=1):
        change, resampled = values[i] - values[0], samples[i] - samples[0]
        p_values = sign_flip_p_values(change, clusters, seed=seed)
        differences[system] = {
            name: difference(change[:, j], resampled[:, j], float(p_values[j]), n_clusters)
            for j, name in enumerate(metrics)
        }
    changes = {}
    for system in others:
        change = results[system].per_query[metric] - results[reference].per_query[metric]
        changes[system] = np.where(np.abs(change) > TIE, change, 0.0)
    return Comparison(
        metric=metric,
        n_queries=len(dataset.queries),
        n_documents=len(dataset.corpus),
        n_clusters=n_clusters,
        estimates=estimates,
        differences=differences,
        changes=changes,
        worst={
            system: [
                _changed(dataset, judgements, results[reference], results[system], metric, row)
                for row in np.argsort(change, kind="stable")[:_WORST_QUERIES].tolist()
                if change[row] < 0
            ]
            for system, change in changes.items()
        },
        seed=seed,
    )


def _plain(one: Estimate | Difference) -> dict[str, float | None]:
    """Return the fields; JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in asdict(one).items()}


def _changed(
    dataset: EmbeddingQAFinetuneDataset,
    judgements: Judgements,
    before: RetrievalResult,
    after: RetrievalResult,
    metric: str,
    row: int,
) -> QueryChange:
    query_id = after.query_ids[row]
    wanted = {after.document_ids[document] for document in judgements.relevant(row)}

    def top(result: RetrievalResult) -> list[RankedDocument]:
        rows = [document for document in result.indices[row, :_TOP_DOCUMENTS] if document >= 0]
        found = [result.document_ids[document] for document in rows]
        return [RankedDocument(docid, dataset.corpus[docid], docid in wanted) for docid in found]

    return QueryChange(
        query_id=query_id,
        query=dataset.queries[query_id],
        before=float(before.per_query[metric][row]),
        after=float(after.per_query[metric][row]),
        relevant={docid: dataset.corpus[docid] for docid in sorted(wanted)},
        top_before=top(before),
        top_after=top(after),
    )


def _check_results(
    results: Mapping[str, RetrievalResult], dataset: EmbeddingQAFinetuneDataset, metric: str
) -> None:
    if not results:
        raise ConfigurationError("'results' must hold at least one system (got none).")
    for name, result in results.items():
        for kind, found, expected in (
            ("queries", result.query_ids, list(dataset.queries)),
            ("documents", result.document_ids, list(dataset.corpus)),
        ):
            if found != expected:
                raise ConfigurationError(
                    f"The result of {name!r} belongs to other {kind} than the dataset's, or to "
                    f"the same in another order ({len(found):,} and {len(expected):,}). Evaluate "
                    "all systems on the same dataset."
                )
        if metric not in result.metrics:
            raise ConfigurationError(
                f"'metric' must be in {sorted(result.metrics)} (got {metric!r}). Other cut-offs "
                "come with 'k_values'."
            )


def check_groups(dataset: EmbeddingQAFinetuneDataset, groups: Mapping[str, str] | None) -> None:
    """Raise DatasetError unless every query has a group, if there are groups."""
    if groups is not None and not isinstance(groups, Mapping):
        raise DatasetError(
            "'groups' must map each query id to the name of its group, such as {'q1': 'faq'} (got "
            f"{type(groups).__name__})."
        )
    without = [qid for qid in dataset.queries if groups is not None and qid not in groups]
    if without:
        raise DatasetError(
            f"{len(without):,} queries have no group: {shown(without)}. Name one for each in "
            "'groups'."
        )


def _labels(dataset: EmbeddingQAFinetuneDataset, groups: Mapping[str, str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(groups[qid], len(numbers)) for qid in dataset.queries])
