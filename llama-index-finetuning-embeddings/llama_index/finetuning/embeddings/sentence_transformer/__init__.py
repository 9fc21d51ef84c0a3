"""Finetune all weights of a Sentence Transformer through sentence-transformers' own Trainer."""

from llama_index.finetuning.embeddings import _conflict
from llama_index.finetuning.embeddings.sentence_transformer.engine import (
    SentenceTransformersFinetuneEngine,
)

__all__ = ["SentenceTransformersFinetuneEngine"]

# A folder wins over the retired package's module of the same name, so this line is reached
# even where that package was installed later and overwrote every __init__ above it.
_conflict.warn_if_retired_package_is_installed()
