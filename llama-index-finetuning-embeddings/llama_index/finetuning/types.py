"""Old import path of the engines' base classes (``llama_index.finetuning.types``)."""

from abc import ABC, abstractmethod
from typing import Any

from llama_index.core.llms.llm import LLM

from llama_index.finetuning._not_carried import missing_name
from llama_index.finetuning.embeddings.base import (
    BaseEmbeddingFinetuneEngine,
    BaseFinetuningEngine,
)

__all__ = ["BaseEmbeddingFinetuneEngine", "BaseFinetuningEngine", "BaseLLMFinetuneEngine"]


class BaseLLMFinetuneEngine(ABC):
    """A finetuning run over an LLM: ``finetune()``, then ``get_finetuned_model()``."""

    @abstractmethod
    def finetune(self) -> None:
        """Start the finetuning."""

    @abstractmethod
    def get_finetuned_model(self, **model_kwargs: Any) -> LLM:
        """Return the finetuned LLM.

        Args:
            **model_kwargs: Passed on to the constructor of the LLM.
        """


def __getattr__(name: str) -> Any:
    raise missing_name(__name__, name)
