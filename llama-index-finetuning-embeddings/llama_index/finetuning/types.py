"""Old import path of the engines' base class (``llama_index.finetuning.types``)."""

from llama_index.finetuning.embeddings.base import (
    BaseEmbeddingFinetuneEngine,
    BaseFinetuningEngine,
)

__all__ = ["BaseEmbeddingFinetuneEngine", "BaseFinetuningEngine"]
