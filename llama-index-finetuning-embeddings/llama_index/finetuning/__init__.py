"""The retired ``llama-index-finetuning``'s names for embeddings, served by this package.

Nothing is imported until a name is asked for (PEP 562), so this import loads no torch.
"""

from typing import TYPE_CHECKING, Any

from llama_index.finetuning.embeddings import _conflict

if TYPE_CHECKING:
    from llama_index.finetuning.embeddings import (
        EmbeddingAdapterFinetuneEngine,
        EmbeddingQAFinetuneDataset,
        SentenceTransformersFinetuneEngine,
        generate_qa_embedding_pairs,
    )

__all__ = [
    "EmbeddingAdapterFinetuneEngine",
    "EmbeddingQAFinetuneDataset",
    "SentenceTransformersFinetuneEngine",
    "generate_qa_embedding_pairs",
]

_NOT_CARRIED = {
    "AzureOpenAIFinetuneEngine": "finetune through the `openai` client of your Azure resource",
    "CohereRerankerFinetuneEngine": "finetune through the `cohere` client",
    "MistralAIFinetuneEngine": "finetune through the `mistralai` client",
    "OpenAIFinetuneEngine": "finetune through the `openai` client",
    "generate_cohere_reranker_finetuning_dataset": "build the file for the `cohere` client",
}

_conflict.warn_if_retired_package_is_installed()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from llama_index.finetuning import embeddings

        return getattr(embeddings, name)
    if name in _NOT_CARRIED:
        raise ImportError(
            f"'{name}' of the retired llama-index-finetuning is not part of "
            f"llama-index-finetuning-embeddings, which finetunes embedding models: "
            f"{_NOT_CARRIED[name]} instead."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
