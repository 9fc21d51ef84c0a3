"""Choosing the arithmetic of the training steps by what the hardware really has."""

import contextlib
import os
from collections.abc import Iterator

import torch

from llama_index.finetuning.embeddings.errors import ConfigurationError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
# What oneDNN and PyTorch's layer above it read when they run their first product.
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
_KERNELS_KEPT = "32"


def choose_precision(precision: str, device: torch.device) -> str:
    """Return ``"bf16"``, ``"fp16"`` or ``"fp32"`` for a device.

    ``"auto"`` is bf16 where the hardware multiplies bf16 matrices itself, else fp32. That is
    about the products of a step; the weights' type is the model's.

    Raises:
        ConfigurationError: The device can't do what is asked for.
    """
    has_bf16 = supports_bf16(device)
    if precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigurationError("'precision' must not be 'fp16' on a CPU. Use 'auto' or 'fp32'.")
    if precision == "bf16" and device.type != "cpu" and not has_bf16:
        raise ConfigurationError(
            f"'precision' is 'bf16', which {device} does not support. Use 'auto' or 'fp32'."
        )
    return precision


def limit_kernel_caches() -> None:
    """Keep a CPU's bf16 kernels from piling up in memory.

    oneDNN compiles a kernel for every shape that it meets and keeps a thousand of them. The texts
    of each step have lengths of their own, so that more than a gigabyte of kernels comes together
    which are hardly ever used again. Limits that the user has set stay as they are.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, _KERNELS_KEPT)


@contextlib.contextmanager
def only_by_arguments() -> Iterator[None]:
    """Let the training arguments alone say what a run computes in.

    Accelerate heeds an environment variable as well, which its launcher sets, and which
    transformers 4 leaves behind after each run in half precision.
    """
    before = os.environ.get(_MIXED_PRECISION)
    os.environ[_MIXED_PRECISION] = "no"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MIXED_PRECISION]
        else:
            os.environ[_MIXED_PRECISION] = before


def supports_bf16(device: torch.device) -> bool:
    """Tell whether a device has matrix instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
