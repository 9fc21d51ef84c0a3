"""Embed many texts through any LlamaIndex embedding model, each distinct text exactly once."""

from llama_index.finetuning.embeddings.encoding.calls import (
    adapted,
    embed_queries,
    source_of,
    stated_dimension,
)
from llama_index.finetuning.embeddings.encoding.encode import encode
from llama_index.finetuning.embeddings.encoding.patience import Side

__all__ = [
    "Side",
    "adapted",
    "embed_queries",
    "encode",
    "source_of",
    "stated_dimension",
]
