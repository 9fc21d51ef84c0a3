"""The tables of a report, as Markdown and as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from llama_index.finetuning.embeddings.evaluation import Comparison, DimensionResult
from llama_index.finetuning.embeddings.evaluation.metrics import label

MARKS = {"better": "▲", "no measurable change": "■", "worse": "▼"}
MILLION = 1_000_000


@dataclass(frozen=True)
class Table:
    """A header and rows of text; the first column names the row, the others are aligned right."""

    header: list[str]
    rows: list[list[str]]

    def to_markdown(self) -> str:
        """Return a Markdown table; a pipe in a cell is escaped."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join(
            f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in line)} |"
            for line in lines
        )

    def to_html(self) -> str:
        """Return an HTML table; all text is escaped."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        body = ""
        for first, *others in self.rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
            body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def shown_metrics(comparison: Comparison) -> list[str]:
    """Choose the few metrics that tell the most, the main one first."""
    names = next(iter(comparison.estimates.values()))
    cut_off = comparison.metric.partition("@")[2]
    wanted = [f"{name}@{cut_off}" for name in ("ndcg", "mrr", "recall")]
    return [
        name
        for name in dict.fromkeys([comparison.metric, *wanted, "hit_rate@1", "map@100"])
        if name in names
    ]


def metrics_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """Return the mean of each metric, one row per system."""
    return Table(
        header=["System", *(label(name) for name in metrics)],
        rows=[
            [system, *(f"{found[name].value:.3f}" for name in metrics)]
            for system, found in comparison.estimates.items()
        ],
    )


def differences_table(comparison: Comparison) -> Table:
    """Return each system's difference from the reference in the main metric."""
    rows = []
    for system, differences in comparison.differences.items():
        one = differences[comparison.metric]
        rows.append(
            [
                system,
                f"{MARKS[one.verdict]} {one.verdict}",
                f"{one.value:+.3f}",
                one.ends_text,
                one.p_text.removeprefix("= "),
                f"{one.won:,} / {one.lost:,} / {one.tied:,}",
            ]
        )
    return Table(
        header=[
            f"Against {comparison.reference}",
            "Verdict",
            f"{label(comparison.metric)} difference",
            "95 % interval",
            "p-value",
            "Queries won / lost / tied",
        ],
        rows=rows,
    )


def dimensions_table(comparison: Comparison, dimensions: Sequence[DimensionResult]) -> Table:
    """Return the main metric at each dimension, and the memory that an index takes."""
    systems = [name for name in comparison.estimates if any(name in d.metrics for d in dimensions)]
    n_documents = comparison.n_documents
    return Table(
        header=[
            "Dimensions",
            *(f"{system}, {label(comparison.metric)}" for system in systems),
            f"Index of these {n_documents:,}",
            f"Index of {MILLION:,}",
        ],
        rows=[
            [
                f"{one.dim:,}",
                *(
                    f"{one.metrics[system]:.3f}" if system in one.metrics else "-"
                    for system in systems
                ),
                in_bytes(one.index_bytes(n_documents)),
                in_bytes(one.index_bytes(MILLION)),
            ]
            for one in dimensions
        ],
    )


def in_bytes(size: int) -> str:
    """Write a number of bytes with three digits: ``"1.54 GB"``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
