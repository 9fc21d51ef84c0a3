"""How queries alone are trained: the first layers stay as they are, and nothing is dropped out."""

import contextlib
from collections.abc import Iterator

from sentence_transformers import SentenceTransformer
from torch import nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.sentence_transformer import lora

# One layer of so many is kept. By experiment, see benchmarks/RESULTS.md.
_KEPT = 3


@contextlib.contextmanager
def frozen_first_layers(model: SentenceTransformer) -> Iterator[None]:
    """Train neither the word embeddings nor the first third of the layers while the block runs.

    What single words mean a few hundred queries have little to say about, and nothing about the
    words that they do not hold; and no gradient is to be computed below the first layer that is
    trained (as in "surgical" finetuning, Lee et al. 2022, https://arxiv.org/abs/2210.11466).
    Transformers of fewer than three layers, models without a transformer and PEFT adapters train
    as they are.
    """
    kept = [one for one in _before_the_trained_layers(model) if one.requires_grad]
    for parameter in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def without_dropout(model: SentenceTransformer) -> Iterator[None]:
    """Drop nothing out while the block runs.

    Queries are pulled towards vectors that were made without dropout. It gains nothing there (see
    benchmarks/RESULTS.md), and takes a tenth of the time. PEFT adapters train with theirs.
    """
    layers = [] if lora.has_adapter(model) else list(model.modules())
    rates = [
        (layer, name, rate)
        for layer in layers
        for name, rate in vars(layer).items()
        # T5 and BART hold the rates of their attention as numbers.
        if isinstance(rate, float)
        and (name == "p" if isinstance(layer, nn.Dropout) else "dropout" in name)
    ]
    for layer, name, _ in rates:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, rate in rates:
            setattr(layer, name, rate)


def _before_the_trained_layers(model: SentenceTransformer) -> list[nn.Parameter]:
    transformer = upstream.transformer_of(model)
    if transformer is None or lora.has_adapter(model):
        return []
    # Of a model of texts and pictures, the part that reads texts.
    transformer = getattr(transformer, "text_model", transformer)
    stacks = [one for one in transformer.modules() if isinstance(one, nn.ModuleList)]
    layers = max(stacks, key=_size, default=nn.ModuleList())
    n_kept = len(layers) // _KEPT
    if n_kept == 0:
        return []
    first_trained = {id(one) for one in layers[n_kept].parameters()}
    kept = []
    # Modules are registered in the order in which a text passes them.
    for parameter in transformer.parameters():
        if id(parameter) in first_trained:
            break
        kept.append(parameter)
    return kept


def _size(layers: nn.ModuleList) -> int:
    return sum(one.numel() for one in layers.parameters())
