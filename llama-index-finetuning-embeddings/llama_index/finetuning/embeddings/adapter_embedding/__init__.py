"""Embedding models made of other embedding models: one with an adapter, one of a pair."""

from llama_index.finetuning.embeddings.adapter_embedding.adapted import (
    AdapterEmbeddingModel,
    LinearAdapterEmbeddingModel,
)
from llama_index.finetuning.embeddings.adapter_embedding.asymmetric import (
    AsymmetricEmbeddingModel,
)

__all__ = ["AdapterEmbeddingModel", "AsymmetricEmbeddingModel", "LinearAdapterEmbeddingModel"]
