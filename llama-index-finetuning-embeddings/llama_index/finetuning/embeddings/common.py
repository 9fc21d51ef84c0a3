"""Kept so that imports from the retired package's module of this name work."""

from typing import Any

from llama_index.finetuning._not_carried import missing_name
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


def __getattr__(name: str) -> Any:
    raise missing_name(__name__, name)
