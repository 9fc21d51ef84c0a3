"""The few places where sentence-transformers 5 and 6 differ."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import transformers
from packaging import version
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn


def losses() -> ModuleType:
    """Return the module of sentence-transformers' losses."""
    return _moved(
        "sentence_transformers.losses", "sentence_transformers.sentence_transformer.losses"
    )


def information_retrieval_evaluator() -> type[Any]:
    """Return the class ``InformationRetrievalEvaluator``."""
    module = _moved(
        "sentence_transformers.evaluation",
        "sentence_transformers.sentence_transformer.evaluation",
    )
    evaluator: type[Any] = module.InformationRetrievalEvaluator
    return evaluator


def router() -> type[Any]:
    """Return the class ``Router``."""
    module = _moved(
        "sentence_transformers.models.Router", "sentence_transformers.base.modules.router"
    )
    router_class: type[Any] = module.Router
    return router_class


def modules() -> ModuleType:
    """Return the module of sentence-transformers' building blocks."""
    return _moved(
        "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"
    )


def _moved(in_5: str, in_6: str) -> ModuleType:
    try:
        return importlib.import_module(in_6)
    except ModuleNotFoundError:
        return importlib.import_module(in_5)


def preprocess(
    model: SentenceTransformer, texts: Sequence[str], prompt: str
) -> dict[str, Tensor | Any]:
    """Tokenize texts behind a prompt, exactly as ``model.encode(texts, prompt=prompt)`` does."""
    if hasattr(model, "preprocess"):
        features: dict[str, Tensor | Any] = model.preprocess(list(texts), prompt=prompt or None)
        return features
    features = dict(model.tokenize([prompt + text for text in texts]))
    if prompt and "attention_mask" in features:
        alone = model.tokenize([prompt])["input_ids"]
        # The end-of-sequence token of the prompt alone is not part of the prompt before a text.
        ended = int(alone[0, -1]) in getattr(model.tokenizer, "all_special_ids", ())
        length = alone.shape[-1] - int(ended)
        features["prompt_length"] = torch.full((len(texts),), length, dtype=torch.int)
    return features


def default_device() -> str:
    """Return the device that a SentenceTransformer takes when none is given."""
    from sentence_transformers.util import get_device_name

    name: str = get_device_name()
    return name


def warmup_argument(share: float) -> dict[str, float]:
    """Return the training argument that warms up over a share of the steps."""
    if version.parse(transformers.__version__) >= version.parse("5"):
        return {"warmup_steps": share}
    return {"warmup_ratio": share}


def transformer_of(model: SentenceTransformer) -> nn.Module | None:
    """Return a model's Hugging Face model, if it has one."""
    found = transformer_child(model)
    return None if found is None else found[2]


def transformer_child(model: SentenceTransformer) -> tuple[nn.Module, str, nn.Module] | None:
    """Return the module that holds the Hugging Face model, the attribute's name and the model."""
    from transformers import PreTrainedModel

    for module in model.children():
        for name, child in module.named_children():
            # PEFT wraps the model in one of its own.
            core = child.get_base_model() if hasattr(child, "get_base_model") else child
            if isinstance(core, PreTrainedModel):
                return module, name, core
    return None
