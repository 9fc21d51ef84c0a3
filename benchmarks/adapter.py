"""The adapter engine against the retired one, and against embedding alone, in one run.

Every time is a ratio to something measured beside it. Run, with the retired package in an
environment of its own (llama-index-finetuning==0.4.2 "mistralai<2",
llama-index-embeddings-huggingface)::

    python benchmarks/adapter.py [--data ../shared/data] [--retired .rival/bin/python]

``--scale`` measures time and memory on made vectors instead, up to a million documents.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from measuring import DATA, peak_gb
from methods import MODEL, load, names_in, retired_adapter, train_file

from llama_index.finetuning.embeddings.adapter import EmbeddingAdapterFinetuneEngine
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.evaluation import evaluate_retrieval

SETTINGS = {"device": "cpu", "embed_batch_size": 32}
EPOCHS, BATCH_SIZE = 4, 10


@contextlib.contextmanager
def seconds(times: dict[str, float], name: str) -> Iterator[None]:
    """Measure a block."""
    began = time.perf_counter()
    yield
    times[name] = time.perf_counter() - began
    print(f"  {name}: {times[name]:.2f} s", flush=True)


def plain(base: BaseEmbedding, dataset: EmbeddingQAFinetuneDataset) -> None:
    """Embed each distinct text once, in the order of the dataset, through the batch call."""
    base.get_text_embedding_batch(list(dict.fromkeys(dataset.queries.values())))
    base.get_text_embedding_batch(list(dict.fromkeys(dataset.corpus.values())))


def finetune(
    base: BaseEmbedding, train: EmbeddingQAFinetuneDataset, output: Path, **kw: Any
) -> Any:
    """Run our engine and return the model."""
    engine = EmbeddingAdapterFinetuneEngine(
        train, base, model_output_path=str(output), device="cpu", show_progress_bar=False, **kw
    )
    engine.finetune()
    return engine.get_finetuned_model()


def main(options: argparse.Namespace) -> None:
    """Measure, and print the table."""
    names = names_in(options.data)
    name = "finance10k" if "finance10k" in names else names[0]
    train, test = (load(options.data, name, side) for side in ("train", "test"))
    train_path = train_file(options.data, name)
    base = HuggingFaceEmbedding(model_name=MODEL, **SETTINGS)
    base.get_text_embedding("warm up")
    told = {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    times: dict[str, float] = {}
    models: dict[str, BaseEmbedding] = {"base": base}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        with seconds(times, "plain"):
            plain(base, train)
        with seconds(times, "cold"):
            models["as told"] = finetune(base, train, folder / "told", cache_dir=folder, **told)
        with seconds(times, "warm"):
            finetune(base, train, folder / "told", cache_dir=folder, **told)
        with seconds(times, "auto"):
            models["auto"] = finetune(base, train, folder / "auto")
        for lr in options.retired_lr if options.retired else ():
            output = folder / f"retired-{lr}"
            spent = retired_adapter(
                options.retired, train_path, output, lr, epochs=EPOCHS, batch_size=BATCH_SIZE
            )
            times[f"retired lr {lr}"] = spent
            print(f"  retired lr {lr}: {spent:.1f} s", flush=True)
            models[f"retired lr {lr}"] = AdapterEmbeddingModel(base, str(output))
        texts = list(test.corpus.values())
        with seconds(times, "texts, base alone"):
            base.get_text_embedding_batch(texts)
        with seconds(times, "texts, adapter"):
            models["auto"].get_text_embedding_batch(texts)
        cache = folder / "cache"
        scores = {
            label: evaluate_retrieval(model, test, cache_dir=cache).metrics["ndcg@10"]
            for label, model in models.items()
        }
    print_table(times, scores)


def print_table(times: dict[str, float], scores: dict[str, float]) -> None:
    """Print ratios first, then the scores."""
    print("\n| measured | ratio |\n|---|---|")
    rows = [
        ("cold run / plain embedding of the same texts", times["cold"] / times["plain"]),
        ("auto, cold / plain embedding of the same texts", times["auto"] / times["plain"]),
        (
            "texts through the adapter model / base",
            times["texts, adapter"] / times["texts, base alone"],
        ),
    ]
    for name, spent in times.items():
        if name.startswith("retired"):
            rows.append((f"{name} / cold run", spent / times["cold"]))
            rows.append((f"{name} / warm run", spent / times["warm"]))
    for name, ratio in rows:
        print(f"| {name} | {ratio:.2f} |")
    print("\n| model | nDCG@10 on test | against base |\n|---|---|---|")
    for name, score in scores.items():
        print(f"| {name} | {score:.4f} | {score - scores['base']:+.4f} |")


class MadeVectors(BaseEmbedding):
    """Gives text number i a fixed random vector; a query lies near its document."""

    def vectors(self, texts: list[str]) -> list[np.ndarray]:
        """Return the vectors of texts such as "d17" and "q17 3"."""
        found = []
        for text in texts:
            document = np.random.default_rng(int(text[1:].split()[0])).standard_normal(384)
            if text[0] == "q":
                document = document + 3 * np.random.default_rng(hash(text) % 2**32).standard_normal(
                    384
                )
            found.append(document / np.linalg.norm(document))
        return found

    def get_query_embedding_batch(self, queries: list[str]) -> list[np.ndarray]:
        """Embed many queries."""
        return self.vectors(queries)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.vectors([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.vectors([text])[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[Any]:
        return self.vectors(texts)


def scale(n_documents: int, negatives: str) -> None:
    """Train on made vectors with a fifth as many queries as documents; print time and memory."""
    n_queries = n_documents // 5
    dataset = EmbeddingQAFinetuneDataset(
        corpus={f"d{i}": f"d{i}" for i in range(n_documents)},
        queries={f"q{i}": f"q{i} {i}" for i in range(n_queries)},
        relevant_docs={f"q{i}": [f"d{i}"] for i in range(n_queries)},
    )
    base = MadeVectors(embed_batch_size=2048)
    with tempfile.TemporaryDirectory() as folder:
        finetune(base, dataset, Path(folder) / "out", negatives=negatives)
        spent = json.loads((Path(folder) / "out" / "finetuning.json").read_text())["seconds"]
    print(
        f"| {n_queries:,} | {n_documents:,} | {negatives} | {spent['embedding']:.0f} | "
        f"{spent['training']:.0f} | {peak_gb():.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--retired", help="Python with the retired package; none: leave it out")
    parser.add_argument("--retired-lr", nargs="+", default=["1e-4"], help="its learning rates")
    parser.add_argument("--scale", action="store_true", help="made vectors of growing number")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        scale(int(arguments.one[0]), arguments.one[1])
    elif arguments.scale:
        head = ("queries", "documents", "negatives", "embedding s", "training s", "peak GB")
        print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
        for negatives in ("relevant", "corpus"):
            for size in (10_000, 100_000, 1_000_000):
                subprocess.run(
                    [sys.executable, __file__, "--one", str(size), negatives], check=True
                )
    else:
        main(arguments)
