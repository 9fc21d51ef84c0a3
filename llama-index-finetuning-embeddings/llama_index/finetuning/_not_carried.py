"""Names of the retired package that this one does not carry, and where to go instead."""

_ADVICE = {
    "AzureOpenAIFinetuneEngine": "finetune through the `openai` client of your Azure resource",
    "CohereRerankerFinetuneEngine": "finetune through the `cohere` client",
    "GradientAIFineTuningHandler": (
        "its service, Gradient, has closed; record chats with OpenAIFineTuningHandler"
    ),
    "GradientFinetuneEngine": (
        "its service, Gradient, has closed; finetune an embedding model of your own with "
        "SentenceTransformersFinetuneEngine"
    ),
    "MistralAIFineTuningHandler": "record chats with OpenAIFineTuningHandler",
    "MistralAIFinetuneEngine": "finetune through the `mistralai` client",
    "generate_cohere_reranker_finetuning_dataset": "build the file for the `cohere` client",
}


def missing_name(module: str, name: str) -> ImportError | AttributeError:
    """Return the error for a name that a module lacks: with advice where the old one had it."""
    if name in _ADVICE:
        return ImportError(
            f"'{name}' of the retired llama-index-finetuning is not part of "
            f"llama-index-finetuning-embeddings: {_ADVICE[name]} instead."
        )
    return AttributeError(f"module {module!r} has no attribute {name!r}")
