"""Letting PyTorch use its fused attention kernel on CPUs."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from llama_index.finetuning.embeddings import upstream

# The dropout of attention probabilities, by the names that Hugging Face models give it; the
# dropout behind an attention layer ("attention.output.dropout") is another and stays.
_PROBABILITY_DROPOUT = re.compile(r"(^|\.)(attention\.self|attention|attn|self_attn)\.dropout$")
_PROBABILITY_FIELDS = ("attention_dropout", "dropout_prob")
# Tokens up to which PyTorch's kernel takes longer in bf16 than in fp32 on a CPU: two to eight times
# as long among up to 128 tokens, a fifth more among 256. See benchmarks/RESULTS.md.
_SHORT = 256


class _ShortInFp32(TorchFunctionMode):
    """Compute the attention among few tokens in fp32, whatever the rest computes in.

    In bf16 the kernel's backward pass multiplies the small matrices of each head and text one by
    one, at a cost that has nothing to do with their size.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or len(args) < 3:
            return func(*args, **kwargs)
        query, key = args[:2]
        if query.dtype != torch.bfloat16 or max(query.shape[-2], key.shape[-2]) > _SHORT:
            return func(*args, **kwargs)
        in_fp32 = {name: _in_fp32(one) for name, one in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*map(_in_fp32, args), **in_fp32).to(query.dtype)


def _in_fp32(value: Any) -> Any:
    lower = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if lower else value


@contextlib.contextmanager
def fused_attention(model: SentenceTransformer) -> Iterator[None]:
    """Leave out the dropout of attention probabilities on a CPU while the block runs.

    With it PyTorch's CPU attention writes the whole matrix of probabilities, with its random
    mask, to memory; without it a fused kernel does not, which is about three times as fast at
    512 tokens and takes a quarter of the memory. All other dropout stays. Among up to 256 tokens
    the kernel computes in fp32, where it is faster than in bf16.
    """
    core = upstream.transformer_of(model)
    # Only PyTorch's own attention has a kernel to gain; elsewhere the dropout would go for nothing.
    fused = core is not None and getattr(core.config, "_attn_implementation", "") == "sdpa"
    if core is None or not fused or model.device.type != "cpu":
        yield
        return
    modules = dict(core.named_modules())
    rates = {
        name: module.p
        for name, module in modules.items()
        if isinstance(module, nn.Dropout) and _PROBABILITY_DROPOUT.search(name)
    }
    fields = {
        (name, field): getattr(module, field)
        for name, module in modules.items()
        for field in _PROBABILITY_FIELDS
        if isinstance(getattr(module, field, None), float)
    }
    try:
        for name in rates:
            modules[name].p = 0.0
        for name, field in fields:
            setattr(modules[name], field, 0.0)
        with _ShortInFp32():
            yield
    finally:
        for name, rate in rates.items():
            modules[name].p = rate
        for (name, field), rate in fields.items():
            setattr(modules[name], field, rate)
