"""Where old code looks for the adapters; they live in `adapters`."""

from typing import Any

from llama_index.finetuning._not_carried import missing_name
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    TwoLayerNN,
    get_activation_function,
)

__all__ = ["BaseAdapter", "LinearLayer", "TwoLayerNN", "get_activation_function"]


def __getattr__(name: str) -> Any:
    raise missing_name(__name__, name)
