"""Tuning the encoder of the queries alone, against all weights at the same length.

Run: python benchmarks/query_encoder.py [--data ../shared/data] [--names finance10k squad]
"""

import argparse
import json
import tempfile
from pathlib import Path

from methods import DATA_SETS, METRIC, called

RUNS = {"queries only": {"train": "query"}, "all weights": {"max_seq_length": None}}


def main() -> None:
    """Train and score both on every data set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--names", nargs="+", default=list(DATA_SETS))
    parser.add_argument("--documents", type=int, help="cut the test corpora to so many documents")
    options = parser.parse_args()
    data = ("--data", str(options.data))
    cut = ("--documents", str(options.documents)) if options.documents else ()
    print("| data | trained | nDCG@10 | against base | seconds | of all weights |")
    print("|---|---|---|---|---|---|")
    gains = []
    for name in options.names:
        base = called("score", "base", name, *cut, *data)[METRIC]
        spent, scores = {}, {}
        for label, settings in RUNS.items():
            with tempfile.TemporaryDirectory() as parent:
                folder = str(Path(parent) / "model")
                text = json.dumps(settings)
                run = called("train", "full", name, folder, "--settings", text, *data)
                spent[label] = run["seconds"]
                if label == "queries only":
                    scores[label] = called("score", folder, name, *cut, *data)[METRIC]
        gains.append(scores["queries only"] - base)
        share = spent["queries only"] / spent["all weights"]
        print(
            f"| {name} | queries only | {scores['queries only']:.4f} | {gains[-1]:+.4f} | "
            f"{spent['queries only']:.0f} | {100 * share:.0f} % |",
            flush=True,
        )
    print(f"\nMean gain: {sum(gains) / len(gains):+.4f}")


if __name__ == "__main__":
    main()
