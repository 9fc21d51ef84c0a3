"""Every way of finetuning on every data set: seconds, peak memory and nDCG@10 with intervals.

All with their defaults, over the packaged MiniLM, beside
the base, BM25, the retired package and a hand-written Trainer; every run in a process of its own.
Finished runs are kept in ``--results``, and a run that was cut off goes on. Run::

    python benchmarks/overview.py [--data ../shared/data] [--retired .rival/bin/python]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import DATA
from methods import METRIC, called, load, names_in, retired, retired_adapter, train_file

from llama_index.finetuning.embeddings.evaluation.judgements import Judgements
from llama_index.finetuning.embeddings.evaluation.significance import (
    difference,
    resampled_means,
    sign_flip_p_values,
)

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter, linear": ("adapter", {}),
    "adapter, low rank": ("adapter", {"kind": "low rank"}),
    "adapter, two layers": ("adapter", {"kind": "two layers"}),
    "queries only": ("full", {"train": "query"}),
    "all weights": ("full", {}),
    "all weights, the folder's length": ("full", {"max_seq_length": None}),
    "all weights, a hard negative": ("hard_negatives", {}),
    "all weights, Matryoshka": ("full", {"matryoshka_dims": [384, 192, 96]}),
    "all weights, merged with the base": ("merged", {}),
    "LoRA": ("lora", {}),
}
SAME_LENGTH = "all weights, the folder's length"
LABELS = ["base", "bm25", "retired adapter", "retired engine", "hand-written Trainer", *OURS]
SEED = 42


def measure(options: argparse.Namespace, name: str, label: str) -> dict[str, Any] | None:
    """Train and score one method; None where its Python is not given."""
    data = ("--data", str(options.data))
    cut = ("--documents", str(options.documents)) if options.documents else ()
    if label in ("base", "bm25"):
        return called("score", label, name, *cut, *data)
    if label.startswith("retired") and not options.retired:
        return None
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        if label == "retired engine":
            spent = retired(options.retired, options.data, name, folder, {"epochs": 2})
        elif label == "retired adapter":
            file = train_file(options.data, name)
            spent = {"seconds": retired_adapter(options.retired, file, folder)}
        else:
            method, settings = OURS.get(label, ("trainer", {}))
            text = json.dumps(settings)
            spent = called("train", method, name, str(folder), "--settings", text, *data)
        return {**spent, **called("score", str(folder), name, *cut, *data)}


def cell(row: dict[str, Any], name: str, form: str) -> str:
    """Return a figure of a row as text, or nothing where it was not measured."""
    return format(row[name], form) if row.get(name) else ""


def table(options: argparse.Namespace, name: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return one data set's table, each method's difference from the base tested by query."""
    test = load(options.data, name, "test", options.documents)
    clusters = Judgements(test).clusters()
    base = np.array(rows["base"]["queries"])
    lines = [
        f"### {name} (base {base.mean():.4f}, {len(base):,} queries)",
        "",
        "| method | seconds | peak GB | nDCG@10 | against the base (95 % interval) | verdict |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for label, row in rows.items():
        if label == "base":
            continue
        change = np.array(row["queries"]) - base
        sampled = resampled_means(change[:, None], clusters, seed=SEED)[:, 0]
        p_value = sign_flip_p_values(change[:, None], clusters, seed=SEED)[0]
        seen = difference(change, sampled, p_value, int(clusters.max()) + 1)
        seconds, peak = cell(row, "seconds", ".0f"), cell(row, "peak_gb", ".1f")
        lines.append(
            f"| {label} | {seconds} | {peak} | {row[METRIC]:.4f} | "
            f"{seen.value:+.4f} ({seen.low:+.4f} to {seen.high:+.4f}) | {seen.verdict} |"
        )
    return "\n".join(lines)


def summary(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the mean gain of each method over the data sets, and its time against the rival's."""
    lines = [
        "### All data sets",
        "",
        "| method | mean gain | least gain | time, all weights at the same length = 1 |",
        "| --- | ---: | ---: | ---: |",
    ]
    for label in LABELS:
        rows = [(sets[label], sets) for sets in found.values() if label in sets]
        if len(rows) < len(found):
            continue
        gains = [row[METRIC] - sets["base"][METRIC] for row, sets in rows]
        compared = [(row, sets[SAME_LENGTH]) for row, sets in rows if SAME_LENGTH in sets]
        times = [row["seconds"] / full["seconds"] for row, full in compared if row.get("seconds")]
        share = f"{np.mean(times):.2f}" if times else ""
        if label != "base":
            lines.append(f"| {label} | {np.mean(gains):+.4f} | {min(gains):+.4f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing in the results, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", help="data sets; all of the folder if left out")
    parser.add_argument("--methods", nargs="+", choices=LABELS, help="measure no others")
    parser.add_argument("--retired", help="Python with the retired package; none: leave it out")
    parser.add_argument("--documents", type=int, help="cut the test corpora to so many documents")
    parser.add_argument("--results", type=Path, default=Path("overview.json"))
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    names = options.names or names_in(options.data)
    # Scores on a cut corpus are others, and go by another key.
    cut = f" {options.documents}" if options.documents else ""
    for name in names:
        rows = results.setdefault(name + cut, {})
        for label in LABELS:
            wanted = label == "base" or options.methods is None or label in options.methods
            if wanted and label not in rows and (found := measure(options, name, label)):
                rows[label] = found
                options.results.write_text(json.dumps(results))
                seconds = cell(found, "seconds", ".0f")
                told = f"{name}, {label}: {found[METRIC]:.4f}, seconds: {seconds}"
                print(told, file=sys.stderr, flush=True)
    ordered = {
        name: {label: found[label] for label in LABELS if label in found}
        for name in names
        for found in [results[name + cut]]
    }
    print("\n" + "\n\n".join(table(options, name, rows) for name, rows in ordered.items()))
    print("\n" + summary(ordered))


if __name__ == "__main__":
    main()
