"""Kept so that imports from the retired package's module of this name work."""

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.generation import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    generate_qa_embedding_pairs,
)

__all__ = [
    "DEFAULT_QA_GENERATE_PROMPT_TMPL",
    "EmbeddingQAFinetuneDataset",
    "generate_qa_embedding_pairs",
]
