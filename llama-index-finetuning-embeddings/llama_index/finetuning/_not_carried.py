"""Names of the retired package that this one does not carry, and where to go instead."""

_RERANKER = "train a CrossEncoder with the CrossEncoderTrainer of sentence-transformers"
_ADVICE = {
    "AzureOpenAIFinetuneEngine": "finetune through the `openai` client of your Azure resource",
    "BaseCohereRerankerFinetuningEngine": "finetune through the `cohere` client",
    "BaseCrossEncoderFinetuningEngine": _RERANKER,
    "CohereRerankerFinetuneEngine": "finetune through the `cohere` client",
    "CrossEncoderFinetuneEngine": _RERANKER,
    "GradientAIFineTuningHandler": (
        "its service, Gradient, has closed; record chats with OpenAIFineTuningHandler"
    ),
    "GradientFinetuneEngine": (
        "its service, Gradient, has closed; finetune an embedding model of your own with "
        "SentenceTransformersFinetuneEngine"
    ),
    "MistralAIFineTuningHandler": "record chats with OpenAIFineTuningHandler",
    "MistralAIFinetuneEngine": "finetune through the `mistralai` client",
    "MyMultipleNegativesRankingLoss": "train with EmbeddingAdapterFinetuneEngine",
    "generate_cohere_reranker_finetuning_dataset": "build the file for the `cohere` client",
    "load_existing_data": "read the file with EmbeddingQAFinetuneDataset.from_json",
    "train_model": "train with EmbeddingAdapterFinetuneEngine",
}


def missing_name(module: str, name: str) -> ImportError | AttributeError:
    """Return the error for a name that a module lacks: with advice where the old one had it."""
    if name in _ADVICE:
        return ImportError(
            f"'{name}' of the retired llama-index-finetuning is not part of "
            f"llama-index-finetuning-embeddings: {_ADVICE[name]} instead."
        )
    return AttributeError(f"module {module!r} has no attribute {name!r}")
