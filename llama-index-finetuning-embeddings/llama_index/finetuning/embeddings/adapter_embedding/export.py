"""A linear adapter as a matrix, and as the last module of a Sentence Transformer."""

import os
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.adapter_embedding.calls import sources
from llama_index.finetuning.embeddings.adapters import LinearLayer, LowRankAdapter
from llama_index.finetuning.embeddings.encoding.calls import module_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.files import atomic_folder, check_apart, check_writable
from llama_index.finetuning.embeddings.manifest import versions, write_manifest


def as_matrix(adapter: torch.nn.Module) -> NDArray[np.float32]:
    """Return the matrix of a linear adapter, shape ``(out_features, in_features)``.

    Raises:
        ConfigurationError: The adapter is not linear, or has a bias.
    """
    linear = (LinearLayer, LowRankAdapter)
    # A subclass may do more in 'forward' than its matrix.
    bent = type(adapter).forward not in [one.forward for one in linear]
    if not isinstance(adapter, linear) or bent or getattr(adapter, "bias", False):
        raise ConfigurationError(
            "Only a LinearLayer without bias or a LowRankAdapter is a matrix (got "
            f"{type(adapter).__name__}{' with bias' if getattr(adapter, 'bias', False) else ''})."
        )
    device = next(adapter.parameters()).device
    with torch.inference_mode():
        matrix: NDArray[np.float32] = (
            adapter(torch.eye(adapter.in_features, device=device)).T.cpu().numpy()
        )
    return np.ascontiguousarray(matrix)


def export_sentence_transformer(
    base: BaseEmbedding, adapter: torch.nn.Module, output_path: str | os.PathLike[str]
) -> str:
    """Write a Sentence Transformers folder that ends in the adapter's matrix.

    Raises:
        ConfigurationError: The adapter is not linear, or the base is no local Sentence
            Transformer.
        OutputError: The folder can't be written.
    """
    check_writable(output_path, name="output_path")
    check_apart(
        sources(base),
        output_path,
        name="output_path",
        reason="the adapter stands behind it and is of no use without it.",
    )
    matrix = torch.from_numpy(as_matrix(adapter))
    inner: Any = getattr(base, "_model", None)
    if not hasattr(inner, "encode") or not isinstance(inner, torch.nn.Sequential):
        raise ConfigurationError(
            "An export needs a HuggingFaceEmbedding as the base (got "
            f"{type(base).__name__}): only its modules can be saved."
        )
    from sentence_transformers import SentenceTransformer

    from llama_index.finetuning.embeddings import upstream
    from llama_index.finetuning.embeddings.linear_ending import linear_ending
    from llama_index.finetuning.embeddings.sentence_transformer.length import set_max_seq_length

    plain = SentenceTransformer(modules=[*inner], device=str(inner.device))
    left_out = (module_dimension(plain) or matrix.shape[1]) - matrix.shape[1]
    # What the base's truncate_dim cuts off counts for nothing.
    matrix = torch.nn.functional.pad(matrix, (0, left_out))
    # Direction is all that counts after a normalisation, so none is needed before the product.
    normalized = getattr(base, "normalize", True) or isinstance(
        inner[-1], upstream.modules().Normalize
    )
    ending = linear_ending(matrix, normalized=normalized)
    model = SentenceTransformer(modules=[*inner, *ending], device=str(inner.device))
    limit: Any = inner.max_seq_length
    set_max_seq_length(model, limit)
    known: dict[str, str] = getattr(inner, "prompts", None) or {}
    prompts = {side: known.get(side) or "" for side in ("query", "text")}
    with atomic_folder(output_path) as folder:
        model.save(str(folder))
        write_manifest(
            folder,
            {"base_model": base.model_name, "prompts": prompts, "versions": versions()},
        )
    return os.fspath(output_path)
