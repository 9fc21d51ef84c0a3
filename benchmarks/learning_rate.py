"""The experiment behind the default learning rate: every rate on every data set, nDCG@10 on test.

All else is the engine's default, without a validation set, so that the last step counts. Finished
runs are kept in ``--results``, and a run that was cut off goes on. Run::

    python benchmarks/learning_rate.py [--data ../shared/data] [--rates 2e-5 4e-5]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measuring import DATA
from methods import METRIC, called, names_in

DOCUMENTS = 2000  # scoring 5,000 abstracts takes longer than training on them


def measure(options: argparse.Namespace, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train with the settings, score, and return both; no settings score the base."""
    data = ("--data", str(options.data))
    with tempfile.TemporaryDirectory() as parent:
        folder, spent = "base", {"seconds": 0.0, "peak_gb": 0.0}
        if settings:
            folder = str(Path(parent) / "model")
            text = json.dumps(settings)
            spent = called("train", "full", name, folder, "--settings", text, *data)
        score = called("score", folder, name, "--documents", str(DOCUMENTS), *data)
    return {**spent, METRIC: score[METRIC]}


def main() -> None:
    """Measure what is missing in the results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", help="data sets; all of the folder if left out")
    parser.add_argument("--rates", nargs="+", default=["2e-5", "3e-5", "4e-5", "6e-5"])
    parser.add_argument("--settings", type=json.loads, default={}, help="further arguments")
    parser.add_argument("--results", type=Path, default=Path("learning_rate.json"))
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    rates = [None, *options.rates, "default"]
    print(f"| data | {' | '.join(rate or 'base' for rate in rates)} |")
    print("| --- |" + " ---: |" * len(rates))
    for name in options.names or names_in(options.data):
        found = []
        for rate in rates:
            arguments = {} if rate == "default" else {"learning_rate": float(rate or 0)}
            settings = {**options.settings, "training_args": arguments} if rate else {}
            key = f"{name} {json.dumps(settings, sort_keys=True)}"
            if key not in results:
                results[key] = measure(options, name, settings)
                options.results.write_text(json.dumps(results, indent=1))
            found.append(f"{results[key][METRIC]:.4f}")
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
