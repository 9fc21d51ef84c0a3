"""Small networks over finished vectors, and the folders that they are kept in."""

from llama_index.finetuning.embeddings.adapters.folder import (
    AdapterDescription,
    Transform,
    describe_adapter_folder,
)
from llama_index.finetuning.embeddings.adapters.layers import (
    BaseAdapter,
    LinearLayer,
    LowRankAdapter,
    TwoLayerNN,
    get_activation_function,
)
from llama_index.finetuning.embeddings.adapters.registry import (
    is_identity,
    is_own_class,
    load_adapter,
    save_adapter,
    saves_itself,
)

__all__ = [
    "AdapterDescription",
    "BaseAdapter",
    "LinearLayer",
    "LowRankAdapter",
    "Transform",
    "TwoLayerNN",
    "describe_adapter_folder",
    "get_activation_function",
    "is_identity",
    "is_own_class",
    "load_adapter",
    "save_adapter",
    "saves_itself",
]
