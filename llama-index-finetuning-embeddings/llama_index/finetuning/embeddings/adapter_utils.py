"""Where old code looks for the adapters; they live in `adapters`."""

from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    TwoLayerNN,
    get_activation_function,
)

__all__ = ["BaseAdapter", "LinearLayer", "TwoLayerNN", "get_activation_function"]
