"""The retired ``llama-index-finetuning``'s names, served by this package.

Nothing is imported until a name is asked for (PEP 562), so this import loads no torch, and no
``openai`` client.
"""

import importlib
from typing import TYPE_CHECKING, Any

from llama_index.finetuning._not_carried import missing_name
from llama_index.finetuning.embeddings import _conflict

if TYPE_CHECKING:
    from llama_index.finetuning.callbacks import OpenAIFineTuningHandler
    from llama_index.finetuning.embeddings import (
        EmbeddingAdapterFinetuneEngine,
        EmbeddingQAFinetuneDataset,
        SentenceTransformersFinetuneEngine,
        generate_qa_embedding_pairs,
    )
    from llama_index.finetuning.openai import OpenAIFinetuneEngine

__all__ = [
    "EmbeddingAdapterFinetuneEngine",
    "EmbeddingQAFinetuneDataset",
    "OpenAIFineTuningHandler",
    "OpenAIFinetuneEngine",
    "SentenceTransformersFinetuneEngine",
    "generate_qa_embedding_pairs",
]

_ELSEWHERE = {"OpenAIFineTuningHandler": "callbacks", "OpenAIFinetuneEngine": "openai"}

_MODULES = ("callbacks", "openai", "types")  # which the retired package had imported

_conflict.warn_if_retired_package_is_installed()


if not TYPE_CHECKING:  # so that checkers see misspelt names

    def __getattr__(name: str) -> Any:
        if name in __all__:
            home = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'embeddings')}")
            return getattr(home, name)
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise missing_name(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
