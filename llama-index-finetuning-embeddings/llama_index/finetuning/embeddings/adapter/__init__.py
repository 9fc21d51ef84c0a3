"""Train an adapter behind any embedding model, while the model and its index stay as they are.

A folder, not ``adapter.py``: Python prefers a package to a module of the same name, so that the
retired package's file of that name can't take this one's place.
"""

from llama_index.finetuning.embeddings import _conflict
from llama_index.finetuning.embeddings.adapter.engine import EmbeddingAdapterFinetuneEngine
from llama_index.finetuning.embeddings.adapter.options import TrainingOptions

_conflict.warn_if_retired_package_is_installed()

__all__ = ["EmbeddingAdapterFinetuneEngine", "TrainingOptions"]
