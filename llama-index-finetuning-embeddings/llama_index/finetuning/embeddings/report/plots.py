"""The pictures of a report, drawn by matplotlib without its global state.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any
colour vision can tell apart; the reference is grey. Figures are narrow, so that a phone shows
their text at a readable size.
"""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_index.finetuning.embeddings.errors import require
from llama_index.finetuning.embeddings.evaluation import Comparison, DimensionResult
from llama_index.finetuning.embeddings.evaluation.metrics import label
from llama_index.finetuning.embeddings.report.tables import MILLION, in_bytes, shown_metrics
from llama_index.finetuning.embeddings.report.training import TrainingCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REFERENCE = "#8c8c8c"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_MARKERS = "osD^vP"
_HATCHES = (None, "//", "..", "xx")
_WON, _LOST = "#0072B2", "#D55E00"
# What a page replaces by colours of its own theme.
_INK, _GRID, _PAPER = "#1b1b1a", "#dcdcdb", "#fffffe"
_WIDTH = 4.6
# Characters of a name in a legend.
_LONGEST_NAME = 50
_NAME_IN_TWO_COLUMNS = 20
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "font.size": 9,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": _INK,
    # A dollar sign in a system's name is one.
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    # Text stays text in an SVG: smaller, searchable, and in the page's own font.
    "svg.fonttype": "none",
    "svg.hashsalt": "retrieval-report",
}


def draw(
    comparison: Comparison,
    dimensions: Sequence[DimensionResult],
    training: TrainingCurve | None,
) -> "dict[str, Figure]":
    """Draw what there is to draw.

    Returns:
        ``"metrics"``: bars with intervals; ``"queries"``: a histogram of differences per query
        for each system; ``"dimensions"`` and ``"training"``: curves. Absent where the report
        has nothing to show.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="plot", purpose="Drawing a report")
    with matplotlib.rc_context(_STYLE):
        figures = {"metrics": _metrics(comparison)}
        if comparison.changes:
            figures["queries"] = _queries(comparison)
        if dimensions:
            figures["dimensions"] = _dimensions(comparison, dimensions)
        if training is not None and (training.loss or training.metric):
            figures["training"] = _training(training, comparison.metric)
    return figures


def to_svg(figure: "Figure", prefix: str, description: str) -> str:
    """Return a figure as an SVG element that takes the size and the theme of its page.

    Args:
        figure: The figure.
        prefix: Makes the element ids unique on the page.
        description: What a screen reader says.
    """
    matplotlib = require("matplotlib", extra="plot", purpose="Drawing a report")
    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg \1 role="img" aria-label="{description}" xmlns="http://www.w3.org/2000/svg" '
        r'xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    for colour, name in ((_INK, "ink"), (_GRID, "grid"), (_PAPER, "paper")):
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _new(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _colour(place: int) -> str:
    return _REFERENCE if place == 0 else _COLOURS[(place - 1) % len(_COLOURS)]


def _round(place: int) -> int:
    """How often the colours have come round already, so that something else tells systems apart."""
    return max(0, place - 1) // len(_COLOURS)


def _metrics(comparison: Comparison) -> "Figure":
    metrics, systems = shown_metrics(comparison), list(comparison.estimates)
    bar = 0.8 / len(systems)
    figure = _new(1.0 + len(metrics) * (0.2 + 0.19 * len(systems)))
    axes = figure.subplots()
    for place, system in enumerate(systems):
        found = [comparison.estimates[system][name] for name in metrics]
        values = np.array([one.value for one in found])
        ends = np.array([[one.low for one in found], [one.high for one in found]])
        # One group of queries has no interval.
        ends = np.where(np.isnan(ends), values, ends)
        positions = np.arange(len(metrics)) + (place - (len(systems) - 1) / 2) * bar
        axes.barh(
            positions,
            values,
            bar * 0.92,
            color=_colour(place),
            label=str(place),
            hatch=_HATCHES[_round(place) % len(_HATCHES)],
        )
        axes.errorbar(
            values,
            positions,
            xerr=np.abs(ends - values),
            fmt="none",
            ecolor=_INK,
            elinewidth=1,
            capsize=2,
        )
        for position, value, high in zip(positions, values, ends[1], strict=True):
            axes.text(high + 0.012, position, f"{value:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(metrics)), [label(name) for name in metrics])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Mean over queries, with its 95 % interval")
    axes.set_ylabel("Metric")
    _add_legend(figure, systems, systems)
    return figure


def _queries(comparison: Comparison) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    figure = _new(0.5 + 1.95 * len(comparison.changes))
    rows: list[Axes] = list(figure.subplots(len(comparison.changes), squeeze=False)[:, 0])
    edges = np.linspace(-1, 1, 21).tolist()
    shown = _shortened(list(comparison.estimates))
    for axes, (system, change) in zip(rows, comparison.changes.items(), strict=True):
        one = comparison.differences[system][comparison.metric]
        axes.hist(change[change > 0], edges, color=_WON)
        axes.hist(change[change < 0], edges, color=_LOST, hatch="///")
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(
            f"{shown[system]}\nagainst {shown[comparison.reference]}\n"
            f"{one.lost:,} lost, {one.won:,} won, {one.tied:,} tied (not drawn)",
            loc="left",
        )
        axes.set_ylabel("Queries")
    rows[-1].set_xlabel(f"Difference in {label(comparison.metric)} of a query")
    return figure


def _dimensions(comparison: Comparison, dimensions: Sequence[DimensionResult]) -> "Figure":
    figure = _new(2.6 + 0.21 * len(comparison.estimates))
    axes = figure.subplots()
    drawn = []
    for place, system in enumerate(comparison.estimates):
        points = [(one.dim, one.metrics[system]) for one in dimensions if system in one.metrics]
        if points:
            marker = _MARKERS[(place + _round(place)) % len(_MARKERS)]
            axes.plot(
                *zip(*points, strict=True), marker=marker, color=_colour(place), label=str(place)
            )
            drawn.append(system)
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        [one.dim for one in dimensions],
        [f"{one.dim}\n{in_bytes(one.index_bytes(MILLION))}" for one in dimensions],
    )
    axes.minorticks_off()
    axes.set_xlabel(f"Dimensions kept, and memory of an index of {MILLION:,}")
    axes.set_ylabel(f"Mean {label(comparison.metric)}")
    axes.set_ylim(bottom=0)
    _add_legend(figure, drawn, list(comparison.estimates))
    return figure


def _add_legend(figure: "Figure", drawn: Sequence[str], systems: Sequence[str]) -> None:
    # Side by side long names would reach beyond the figure.
    wide = max(map(len, drawn)) > _NAME_IN_TWO_COLUMNS
    legend = figure.legend(loc="outside upper left", ncols=1 if wide else 2)
    shown = _shortened(systems)
    # Afterwards: a legend leaves out the names that start with "_".
    for text, name in zip(legend.get_texts(), drawn, strict=True):
        text.set_text(shown[name])


def _shortened(names: Sequence[str]) -> dict[str, str]:
    """Leave out the middle of names that would reach beyond the figure.

    Names that would look the same lose what they all begin with instead.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_without_middle(name)].append(name)
    shown = {alike[0]: short for short, alike in groups.items()}
    for alike in groups.values():
        if len(alike) > 1:
            letters = enumerate(zip(*alike, strict=False))
            begin = next((place for place, found in letters if len(set(found)) > 1), 0)
            shown |= {name: _without_middle(f"\u2026{name[begin:]}") for name in alike}
    counts = Counter(shown.values())
    return {
        name: _without_middle(f"{place}. {shown[name]}" if counts[shown[name]] > 1 else shown[name])
        for place, name in enumerate(names, start=1)
    }


def _without_middle(name: str) -> str:
    # Half of a surrogate pair, as in the name of a folder in no known encoding, can't be drawn.
    name = name.encode(errors="backslashreplace").decode()
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}\u2026{name[-half:]}"


def _training(training: TrainingCurve, metric: str) -> "Figure":
    curves = [
        (training.loss, "Training loss", _COLOURS[1], ""),
        (training.metric, f"Validation {label(metric)}", _COLOURS[0], "o"),
    ]
    drawn = [curve for curve in curves if curve[0]]
    figure = _new(0.6 + 1.7 * len(drawn))
    rows: list[Axes] = list(figure.subplots(len(drawn), squeeze=False, sharex=True)[:, 0])
    for axes, (points, name, colour, marker) in zip(rows, drawn, strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker or None)
        axes.set_ylabel(name)
        # A single point has no line.
        if len(points) == 1:
            axes.lines[0].set_marker("o")
    rows[-1].set_xlabel("Training step")
    return figure
