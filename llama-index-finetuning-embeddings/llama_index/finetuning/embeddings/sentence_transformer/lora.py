"""Training with PEFT adapters (LoRA and kin) that are merged into the saved model."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.errors import ConfigurationError, require

ADAPTER_FOLDER = "peft_adapter"


def add_adapter(model: SentenceTransformer, peft_config: Any) -> None:
    """Wrap the model's transformer in a PEFT model; only the adapter's weights train.

    Raises:
        MissingExtraError: PEFT is not installed.
        ConfigurationError: It is no PEFT config, or of a kind that can't be merged, or the model
            has no transformer to adapt.
    """
    peft = require("peft", extra="lora", purpose="'peft_config'")
    if not isinstance(peft_config, peft.PeftConfig):
        raise ConfigurationError(
            f"'peft_config' must be a peft.PeftConfig such as LoraConfig (got {peft_config!r})."
        )
    found = upstream.transformer_child(model)
    if found is None:
        raise ConfigurationError("'peft_config' needs a transformer model, which this one is not.")
    module, name, transformer = found
    # A copy: PEFT writes into it what it finds in the model. One that was read from a saved
    # adapter's folder is for inference.
    config = copy.deepcopy(peft_config)
    config.inference_mode = False
    # A head behind the transformer would train at the adapter's rate, and is no part of it.
    model.requires_grad_(False)
    try:
        adapted = peft.get_peft_model(transformer, config)
    except ValueError as error:  # modules that the model does not have, for instance
        raise ConfigurationError(
            f"'peft_config' does not fit the model {type(transformer).__name__}: {error}"
        ) from error
    if not hasattr(adapted, "merge_and_unload"):
        raise ConfigurationError(
            f"'peft_config' must be of a kind that can be merged into the weights, such as "
            f"LoraConfig (got {type(peft_config).__name__})."
        )
    setattr(module, name, adapted)


def has_adapter(model: SentenceTransformer) -> bool:
    """Tell whether a part of the model is wrapped in a PEFT model."""
    return any(True for _ in _adapted(model))


def merge_adapter(model: SentenceTransformer, folder: Path) -> None:
    """Write the adapter below ``folder`` and fold it into the weights that it adapts."""
    for module, name, child in list(_adapted(model)):
        child.save_pretrained(str(folder / ADAPTER_FOLDER))
        setattr(module, name, child.merge_and_unload())


def _adapted(model: SentenceTransformer) -> Iterator[tuple[nn.Module, str, Any]]:
    for module in model.children():
        for name, child in module.named_children():
            # Only a PEFT model has this method, and PEFT need not be installed to ask.
            if hasattr(child, "merge_and_unload"):
                yield module, name, child
