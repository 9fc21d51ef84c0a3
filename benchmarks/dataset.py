"""A dataset of a million pairs: seconds and memory to load, describe and split it.

Run it with ``python benchmarks/dataset.py``. The data is made up: two queries per document, words
drawn from a vocabulary as uneven as a language's, one document in fifty a near-duplicate of
another. Every phase is timed in a fresh process, whose peak memory is read after each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import peak_gb

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset

VOCABULARY = 100_000


def made_dataset(pairs: int, words: int, ending: str) -> EmbeddingQAFinetuneDataset:
    """Return made data; ``ending`` stands behind every document (an emoji widens its string)."""
    rng = np.random.default_rng(0)
    names = np.array([f"w{i:x}" for i in rng.integers(1 << 20, size=VOCABULARY)])
    n_documents = pairs // 2
    corpus = {}
    for start in range(0, n_documents, 10_000):
        rows = names[np.minimum(rng.zipf(1.2, (10_000, words)), VOCABULARY) - 1].tolist()
        for i, row in enumerate(rows[: n_documents - start], start=start):
            near_duplicate = (
                [*corpus[f"d{i - 1}"].split()[: words - 1], "x"] if i % 50 == 49 else None
            )
            corpus[f"d{i}"] = " ".join(near_duplicate or row) + ending
    queries = {
        f"q{i}": f"{i} " + " ".join(corpus[f"d{i // 2}"].split()[:8])
        for i in range(n_documents * 2)
    }
    relevant_docs = {f"q{i}": [f"d{i // 2}"] for i in range(n_documents * 2)}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant_docs)


def measure(path: Path) -> None:
    """Time the phases in this process and print a line of JSON for each."""
    before = peak_gb()
    start = time.perf_counter()

    def done(phase: str, **found: object) -> None:
        seconds = time.perf_counter() - start
        print(json.dumps({"phase": phase, "s": round(seconds, 1), "gb": peak_gb(), **found}))

    dataset = EmbeddingQAFinetuneDataset.from_json(path)
    size = path.stat().st_size / 1e9
    done("load", file_gb=size, times_the_file=(peak_gb() - before) / size)
    start = time.perf_counter()
    description = dataset.describe()
    done("describe", near_duplicates=description.near_duplicate_documents)
    start = time.perf_counter()
    train, test = dataset.train_test_split()
    done("split by document", train=len(train.queries), test=len(test.queries))
    start = time.perf_counter()
    train.save_json(path.with_name("train.json"))
    done("save the training part")


def main() -> None:
    """Make the data, measure it in another process and print what that found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=100, help="words per document")
    parser.add_argument("--ending", default="", help="put behind every document")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.json"
        made_dataset(options.pairs, options.words, options.ending).save_json(path)
        command = [sys.executable, __file__, "--measure", str(path)]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(os.environ)
        ).stdout
    total = 0.0
    print(f"{options.pairs:,} pairs, documents of {options.words} words, {os.cpu_count()} cores")
    for line in map(json.loads, output.splitlines()):
        total += line["s"] if line["phase"] != "save the training part" else 0
        rest = {key: value for key, value in line.items() if key not in ("phase", "s", "gb")}
        print(f"{line['phase']:<24}{line['s']:>7.1f} s   peak {line['gb']:.2f} GB   {rest}")
    print(f"{'load, describe, split':<24}{total:>7.1f} s")


if __name__ == "__main__":
    main()
