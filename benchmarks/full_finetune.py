"""The full engine against the retired one and against a hand-written Trainer, in one run.

Same data, base model, epochs and cores; every run in a process of its own. Prints seconds from
the engine's construction to the saved model, peak memory, nDCG@10 on the test file, and how long
each takes to the rival's quality. Run, with the retired package in an environment of its own
(llama-index-finetuning==0.4.2 "mistralai<2", llama-index-embeddings-huggingface)::

    python benchmarks/full_finetune.py --names finance10k squad [--retired .rival/bin/python]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import DATA
from methods import METRIC, MODEL, called, load, names_in, retired
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings.sentence_transformer.precision import choose_precision
from llama_index.finetuning.embeddings.sentence_transformer.rows import document_rows
from llama_index.finetuning.embeddings.sentence_transformer.task import (
    MAX_QUERIES_PER_DOCUMENT,
)

EPOCHS, BATCH_SIZE = 2, 10
OURS = {
    "ours, defaults": {"epochs": EPOCHS},
    "ours, the folder's length": {"epochs": EPOCHS, "max_seq_length": None},
    "ours, the folder's length, 1 epoch": {"epochs": 1, "max_seq_length": None},
}


def peak_flops(dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product on this machine, the best of some tries."""
    size, best = 2048, float("inf")
    one, other = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    for _ in range(8):
        began = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def training_flops(dataset: Any, epochs: int, max_seq_length: int) -> float:
    """Return the FLOP of encoding every step's documents and queries, and their gradients.

    A document comes in as many steps of an epoch as it has rows, each query in one.

    A forward pass takes two a weight and token in the layers, and four a layer, dimension and
    pair of tokens in the attention; the backward pass takes twice as much.
    """
    model = SentenceTransformer(MODEL, device="cpu")
    config = model[0].auto_model.config
    layers = sum(p.numel() for n, p in model.named_parameters() if ".encoder." in n)
    rows = document_rows(dataset, use_all_docs=False, max_queries=MAX_QUERIES_PER_DOCUMENT)
    texts = [dataset.corpus[row.document_id] for row in rows] + list(dataset.queries.values())
    lengths = [
        min(len(ids), max_seq_length)
        for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    ]
    per_pair = 4 * config.num_hidden_layers * config.hidden_size
    forward = sum(2 * layers * n + per_pair * n * n for n in lengths)
    return 3.0 * forward * epochs


def measure(options: argparse.Namespace, name: str) -> dict[str, dict[str, float]]:
    """Run every method on one data set; return seconds, peak memory and score of each."""
    data = ("--data", str(options.data))
    cut = ("--documents", str(options.documents)) if options.documents else ()
    rows: dict[str, dict[str, float]] = {}

    def score(folder: str) -> float:
        found = called("score", folder, name, *cut, *data)
        return float(found[METRIC])

    with tempfile.TemporaryDirectory() as parent:
        rows["base"] = {"seconds": 0.0, "peak_gb": 0.0, METRIC: score("base")}
        if options.retired:
            folder = Path(parent) / "retired"
            settings = {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
            spent = retired(options.retired, options.data, name, folder, settings)
            rows["retired engine"] = {**spent, METRIC: score(str(folder))}
            show(name, "retired engine", rows["retired engine"])
        runs: dict[str, tuple[str, dict[str, Any]]] = {"hand-written Trainer": ("trainer", {})}
        runs |= {label: ("full", settings) for label, settings in OURS.items()}
        for label, (method, settings) in runs.items():
            folder = Path(parent) / label.replace(" ", "-").replace(",", "").replace("'", "")
            text = json.dumps({"batch_size": BATCH_SIZE, "epochs": EPOCHS, **settings})
            spent = called("train", method, name, str(folder), "--settings", text, *data)
            rows[label] = {**spent, METRIC: score(str(folder))}
            if method == "full":
                rows[label]["share"] = achieved(options.data, name, folder)
            show(name, label, rows[label])
    return rows


def achieved(data: Path, name: str, folder: Path) -> float:
    """Return the FLOP/s of a training of ours over those of a matrix product, 0 to 1."""
    facts = json.loads((folder / "finetuning.json").read_text())
    settings = facts["parameters"]
    dataset = load(data, name, "train")
    flops = training_flops(dataset, int(settings["epochs"]), int(facts["max_seq_length"]))
    dtype = {"bf16": torch.bfloat16}.get(settings["precision"], torch.float32)
    return flops / facts["seconds"]["train"] / peak_flops(dtype)


def show(name: str, label: str, row: dict[str, float]) -> None:
    """Print a line as soon as it is known."""
    share = f"{100 * row['share']:.0f} %" if "share" in row else ""
    cells = (name, label, f"{row['seconds']:.0f}", f"{row['peak_gb']:.1f}", f"{row[METRIC]:.4f}")
    print(f"| {' | '.join(cells)} | {share} |", flush=True)


def times_to_quality(rows: dict[str, dict[str, float]]) -> list[str]:
    """Say how much sooner ours reaches each rival's score at the same length."""
    lines = []
    for rival in ("retired engine", "hand-written Trainer"):
        if rival not in rows:
            continue
        reached = [
            rows[label]["seconds"]
            for label, settings in OURS.items()
            if "max_seq_length" in settings and rows[label][METRIC] >= rows[rival][METRIC]
        ]
        ratio = f"{rows[rival]['seconds'] / min(reached):.1f}" if reached else "not reached"
        lines.append(f"- {rival}: seconds to its nDCG@10 over ours at its length: {ratio}")
    return lines


def main() -> None:
    """Measure each data set and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", help="data sets; all of the folder if left out")
    parser.add_argument("--retired", help="Python with the retired package; none: leave it out")
    parser.add_argument("--documents", type=int, help="cut the test corpora to so many documents")
    options = parser.parse_args()
    precision = choose_precision("auto", torch.device("cpu"))
    print(f"{torch.get_num_threads()} threads, {precision} where ours chooses\n")
    print("| data | method | seconds | peak GB | nDCG@10 | of the product's FLOP/s |")
    print("|---|---|---|---|---|---|")
    found = {name: measure(options, name) for name in options.names or names_in(options.data)}
    for name, rows in found.items():
        print(f"\n{name} (base {rows['base'][METRIC]:.4f})")
        print("\n".join(times_to_quality(rows)))


if __name__ == "__main__":
    main()
