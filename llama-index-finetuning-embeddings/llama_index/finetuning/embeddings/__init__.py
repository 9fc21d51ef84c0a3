"""Finetune embedding models for retrieval inside LlamaIndex, and prove that they got better.

This module is the whole public API. Nothing behind it is imported until a name is asked for
(PEP 562), so importing it loads neither torch nor transformers nor sentence-transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.finetuning.embeddings.base import (
        BaseEmbeddingFinetuneEngine as BaseEmbeddingFinetuneEngine,
    )
    from llama_index.finetuning.embeddings.base import BaseFinetuningEngine as BaseFinetuningEngine
    from llama_index.finetuning.embeddings.dataset import (
        EmbeddingQAFinetuneDataset as EmbeddingQAFinetuneDataset,
    )
    from llama_index.finetuning.embeddings.sentence_transformer import (
        SentenceTransformersFinetuneEngine as SentenceTransformersFinetuneEngine,
    )

_HOMES = {
    "base": ("BaseEmbeddingFinetuneEngine", "BaseFinetuningEngine"),
    "dataset": ("EmbeddingQAFinetuneDataset",),
    "sentence_transformer": ("SentenceTransformersFinetuneEngine",),
    "errors": (
        "ConfigurationError",
        "DatasetError",
        "DatasetFileError",
        "EncodingError",
        "FinetuningError",
        "GenerationError",
        "MissingExtraError",
        "ModelFolderError",
        "OutputError",
        "TrainingError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
