"""Models without a greatest length of a text, which LlamaIndex's class does not expect."""

from llama_index.core.bridge.pydantic import Field
from llama_index.embeddings.huggingface import HuggingFaceEmbedding


class UnboundedHuggingFaceEmbedding(HuggingFaceEmbedding):  # type: ignore[misc]
    """A ``HuggingFaceEmbedding`` of a model that reads whole texts, such as a StaticEmbedding."""

    max_length: float = Field(description="Tokens of a text that are read: infinitely many.")
