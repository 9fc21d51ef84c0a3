"""One self-contained HTML page: no script, no file beside it, nothing loaded from anywhere."""

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path

from llama_index.finetuning.embeddings.errors import MissingExtraError
from llama_index.finetuning.embeddings.evaluation import (
    Comparison,
    DimensionResult,
    QueryChange,
    RankedDocument,
)
from llama_index.finetuning.embeddings.evaluation.metrics import label
from llama_index.finetuning.embeddings.evaluation.significance import RESAMPLES
from llama_index.finetuning.embeddings.report import plots
from llama_index.finetuning.embeddings.report.tables import (
    MARKS,
    Table,
    differences_table,
    dimensions_table,
    metrics_table,
    shown_metrics,
)
from llama_index.finetuning.embeddings.report.training import TrainingCurve

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 240
_CAPTIONS = {
    "metrics": "How good each system is",
    "queries": "Query by query",
    "dimensions": "With shorter vectors",
    "training": "The course of the training",
}
_GLOSSARY = {
    "nDCG@k": "How near the relevant documents are to the top of the first k results, compared "
    "with the best possible order: 1 is perfect, 0 means that none was found.",
    "MRR@k": "One divided by the rank of the first relevant document, 0 beyond rank k.",
    "Recall@k": "The share of the relevant documents that is among the first k.",
    "Hit rate@k": "The share of queries with a relevant document among the first k.",
    "MAP@k": "The precision at the rank of each relevant document, averaged; those beyond rank k "
    "count as 0.",
    "Precision@k": "The share of the first k results that is relevant.",
    "95 % interval": "Another sample of queries like these would give a value in this range most "
    "of the time.",
    "p-value": "How often chance alone would bring a difference at least this large. Below 0.05, "
    "with an interval that leaves out 0, a difference is called better or worse.",
}


def page(
    comparison: Comparison,
    dimensions: Sequence[DimensionResult],
    general: Comparison | None,
    training: TrainingCurve | None,
    *,
    title: str,
    note: str,
) -> str:
    """Return the whole page; without matplotlib it has no pictures, and the log says so."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">{comparison.n_queries:,} queries, {comparison.n_documents:,} documents; '
        f"compared with {escape(comparison.reference)}</p>",
        verdicts(comparison, note),
        _scroll(metrics_table(comparison, shown_metrics(comparison))),
        _differences(comparison),
        _figures(comparison, dimensions, training),
        _dimensions(comparison, dimensions),
        _general(general),
        _worst(comparison),
        _all_metrics(comparison),
        _reading(comparison),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body></html>\n"
    )


def verdicts(comparison: Comparison, note: str = "") -> str:
    """Return a box for each system with its verdict and the sentence that backs it."""
    boxes = "".join(
        f'<div class="verdict {verdict.split()[0]}"><b>{MARKS[verdict]} {escape(system)}: '
        f"{verdict}</b>{escape(comparison.sentence(system))}</div>"
        for system in comparison.differences
        for verdict in [comparison.verdict(system)]
    )
    return boxes + (f"<p>{escape(note)}</p>" if note else "")


def _scroll(table: Table) -> str:
    # Focusable, so that the keyboard can scroll it.
    return f'<div class="wide" tabindex="0">{table.to_html()}</div>'


def _differences(comparison: Comparison) -> str:
    return _scroll(differences_table(comparison)) if comparison.differences else ""


def _figures(
    comparison: Comparison, dimensions: Sequence[DimensionResult], training: TrainingCurve | None
) -> str:
    try:
        figures = plots.draw(comparison, dimensions, training)
    except MissingExtraError as error:
        logger.warning("The page has no pictures. %s", error)
        return ""
    drawn = [
        f"<figure><figcaption>{_CAPTIONS[name]}</figcaption>"
        f"{plots.to_svg(figure, name, _CAPTIONS[name])}</figure>"
        for name, figure in figures.items()
    ]
    return f'<h2>Pictures</h2><div class="figures">{"".join(drawn)}</div>'


def _dimensions(comparison: Comparison, dimensions: Sequence[DimensionResult]) -> str:
    if not dimensions:
        return ""
    table = dimensions_table(comparison, dimensions)
    return (
        "<h2>Shorter vectors</h2><p>Only the first numbers of each vector are kept, which makes "
        f"an index smaller and faster.</p>{_scroll(table)}"
    )


def _general(general: Comparison | None) -> str:
    if general is None:
        return ""
    return (
        "<h2>Has anything been forgotten?</h2><p>The same comparison on a general dataset of "
        f"{general.n_queries:,} queries and {general.n_documents:,} documents.</p>"
        f"{verdicts(general)}{_scroll(metrics_table(general, shown_metrics(general)))}"
        f"{_differences(general)}{_worst(general)}"
    )


def _worst(comparison: Comparison) -> str:
    """Return a section for each system that answers queries worse, the first one open."""
    sections = [
        f"<summary>Queries that {escape(system)} answers worse</summary>"
        + "".join(_query(change, comparison, system) for change in changes)
        for system, changes in comparison.worst.items()
        if changes
    ]
    return "".join(
        f'<details class="section"{"" if place else " open"}>{section}</details>'
        for place, section in enumerate(sections)
    )


def _query(change: QueryChange, comparison: Comparison, system: str) -> str:
    wanted = "".join(f'<li dir="auto">{_short(text)}</li>' for text in change.relevant.values())
    return (
        f'<div class="query"><h3 dir="auto">{_short(change.query)}</h3>'
        f'<p class="dim">{label(comparison.metric)} {change.before:.3f} → {change.after:.3f}</p>'
        f'<div class="sides">{_ranking(comparison.reference, change.top_before)}'
        f"{_ranking(system, change.top_after)}</div>"
        f"<details><summary>What was wanted</summary><ol>{wanted}</ol></details></div>"
    )


def _ranking(system: str, documents: list[RankedDocument]) -> str:
    # The mark has a direction of its own, so that the text decides for the line.
    hit = '<span class="hit" dir="ltr">✓ relevant</span> '
    items = "".join(
        f'<li dir="auto">{hit if one.relevant else ""}{_short(one.text)}</li>' for one in documents
    )
    return f"<div><b>{escape(system)}</b><ol>{items}</ol></div>"


def _short(text: str) -> str:
    text = " ".join(text.split())
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS].rstrip() + " …"
    return escape(cut)


def _all_metrics(comparison: Comparison) -> str:
    names = list(next(iter(comparison.estimates.values())))
    table = metrics_table(comparison, names)
    turned = Table(
        header=["Metric", *(row[0] for row in table.rows)],
        rows=[list(column) for column in zip(table.header, *table.rows, strict=True)][1:],
    )
    return f"<details><summary>All metrics</summary>{_scroll(turned)}</details>"


def _reading(comparison: Comparison) -> str:
    terms = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in _GLOSSARY.items())
    return (
        f"<details><summary>How to read this</summary><dl>{terms}</dl>"
        f"<p>Intervals come from a bootstrap and p-values from a sign-flip test, both with "
        f"{RESAMPLES:,} resamples (seed {comparison.seed}) over {comparison.n_clusters:,} groups "
        f"of queries that share a relevant document or were grouped by hand; each system is "
        f"tested on its own.</p></details>"
    )
