"""The engines' common base class."""

from abc import ABC, abstractmethod
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding


class BaseFinetuningEngine(ABC):
    """A finetuning run over an embedding model: ``finetune()``, then ``get_finetuned_model()``."""

    @abstractmethod
    def finetune(self, **train_kwargs: Any) -> None:
        """Train, and write the result to the engine's output folder; blocks until it is done.

        Args:
            **train_kwargs: Training options that hold for this call and override those given
                to the constructor. An unknown option is an error.
        """

    @abstractmethod
    def get_finetuned_model(self, **model_kwargs: Any) -> BaseEmbedding:
        """Load the finetuned model from the engine's output folder.

        Args:
            **model_kwargs: Passed on to the constructor of the embedding model.
        """


# The retired package's name for the same class.
BaseEmbeddingFinetuneEngine = BaseFinetuningEngine
