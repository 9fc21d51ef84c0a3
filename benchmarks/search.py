"""Time and memory of exact search on made vectors, against the bare blocked product.

The full size is 20,000 queries by 1,000,000 documents of 384 numbers; ``--scale 0.1`` takes a
tenth of the queries. Each measurement runs in a process of its own, so that its peak memory is
its own. Run: python benchmarks/search.py [--scale 0.1] [--documents 1000000]
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from measuring import peak_gb

from llama_index.finetuning.embeddings.search import top_k

DIM, K, BLOCK = 384, 100, 16_384


def vectors(rows: int, seed: int) -> np.ndarray:
    """Return normal vectors, made in blocks."""
    rng = np.random.default_rng(seed)
    made = np.empty((rows, DIM), dtype=np.float32)
    for start in range(0, rows, BLOCK):
        made[start : start + BLOCK] = rng.standard_normal(
            made[start : start + BLOCK].shape, dtype=np.float32
        )
    return made


def bare(queries: np.ndarray, documents: np.ndarray) -> None:
    """Multiply block by block and keep each query's best by argpartition: no ties, no rescoring."""
    rows = 8_388_608 // BLOCK
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        best = np.full((len(block), K), -np.inf, dtype=np.float32)
        places = np.zeros((len(block), K), dtype=np.int64)
        for first in range(0, len(documents), BLOCK):
            scores = block @ documents[first : first + BLOCK].T
            kept = np.argpartition(scores, scores.shape[1] - K, axis=1)[:, -K:]
            pool = np.hstack([best, np.take_along_axis(scores, kept, axis=1)])
            rows_of = np.hstack([places, kept + first])
            kept = np.argpartition(pool, K, axis=1)[:, -K:]
            best = np.take_along_axis(pool, kept, axis=1)
            places = np.take_along_axis(rows_of, kept, axis=1)


def product(queries: np.ndarray, documents: np.ndarray) -> None:
    """Multiply block by block and keep nothing."""
    rows = 8_388_608 // BLOCK
    for first in range(0, len(documents), BLOCK):
        for start in range(0, len(queries), rows):
            queries[start : start + rows] @ documents[first : first + BLOCK].T


def measure(what: str, n_queries: int, n_documents: int) -> dict[str, float]:
    """Run one of the three in this process; return seconds and peak memory in GB."""
    queries, documents = vectors(n_queries, 0), vectors(n_documents, 1)
    run = {"product": product, "bare": bare, "top_k": lambda q, d: top_k(q, d, K)}[what]
    started = time.perf_counter()
    run(queries, documents)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_gb": peak_gb()}


def main() -> None:
    """Measure the three one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 20,000 queries")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("product", "bare", "top_k"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    n_queries = round(20_000 * arguments.scale)
    if arguments.only:
        print(json.dumps(measure(arguments.only, n_queries, arguments.documents)))
        return
    print(f"{n_queries:,} queries x {arguments.documents:,} documents x {DIM}, top {K}\n")
    print("| what | seconds | peak memory, GB |\n| --- | ---: | ---: |")
    names = {
        "product": "blocked product alone",
        "bare": "blocked product with top-k",
        "top_k": "search.top_k",
    }
    seconds = {}
    for what, name in names.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--only", what]
        found = json.loads(subprocess.check_output(command))
        seconds[what] = found["seconds"]
        print(f"| {name} | {found['seconds']:.1f} | {found['peak_gb']:.2f} |", flush=True)
    print(f"\ntop_k / product with top-k: {seconds['top_k'] / seconds['bare']:.2f}")
    print(f"top_k / product alone: {seconds['top_k'] / seconds['product']:.2f}")


if __name__ == "__main__":
    main()
