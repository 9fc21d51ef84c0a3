"""A training script as a user would launch it with torchrun; the test runs it."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from fakes import tiny_dataset
from transformers import TrainerCallback

from llama_index.finetuning.embeddings import SentenceTransformersFinetuneEngine
from llama_index.finetuning.embeddings.sentence_transformer.distributed import is_main


class Losses(TrainerCallback):
    """Collects the logged losses."""

    def __init__(self):
        self.found = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep a loss."""
        if "loss" in logs:
            self.found.append(logs["loss"])


def main():
    """Train, and write the losses from the main process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--hard-negatives", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    losses = Losses()
    dataset = tiny_dataset(options.documents, 2)
    if options.hard_negatives:
        # The next document: it is trained too, often in the same step by the other process.
        following = {f"d{i}": f"d{(i + 1) % options.documents}" for i in range(options.documents)}
        dataset.hard_negatives = {
            qid: [following[found[0]]] for qid, found in dataset.relevant_docs.items()
        }
    engine = SentenceTransformersFinetuneEngine(
        dataset,
        options.model,
        str(options.output),
        batch_size=options.batch_size,
        epochs=2,
        val_dataset=tiny_dataset(8, 1, seed=5) if options.validate else None,
        evaluation_steps=3,
        device="cpu",
        precision="fp32",
        show_progress_bar=False,
        callbacks=[losses],
        training_args={"learning_rate": 1e-3, "logging_steps": 1, "max_grad_norm": 0.0},
        **options.settings,
    )
    # Dropout draws differ between one process and two, and nothing else may.
    for module in engine.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if options.recompute:
        engine.loss.keep_activations_tokens = 0
        engine.loss.micro_batch_tokens = 8
    engine.finetune()
    vector = engine.get_finetuned_model().get_query_embedding("amber bridge")
    if is_main():
        found = {"losses": losses.found, "vector": vector}
        (options.output.parent / f"{options.output.name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
