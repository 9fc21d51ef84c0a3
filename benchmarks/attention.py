"""PyTorch's attention kernel for CPUs in bf16 and in fp32, forward and backward, by text length.

Run: python benchmarks/attention.py [--heads 12] [--dim 32]
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

TOKENS, REPEATS = 1024, 15


def milliseconds(length: int, heads: int, dim: int, *, fp32: bool) -> float:
    """Return the median time of attention over 1,024 tokens in texts of one length."""
    shape = (max(1, TOKENS // length), length, heads, dim)
    # Laid out as a model's layers give them, and each text with some padding.
    given = [torch.randn(shape, dtype=torch.bfloat16) for _ in range(3)]
    query, key, value = (one.transpose(1, 2).requires_grad_() for one in given)
    mask = torch.ones(shape[0], 1, length, length, dtype=torch.bool)
    mask[..., -2:] = False
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        inputs = [one.float() if fp32 else one for one in (query, key, value)]
        found = functional.scaled_dot_product_attention(*inputs, attn_mask=mask).bfloat16()
        torch.autograd.grad(found.sum(), (query, key, value))
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def main() -> None:
    """Measure each length and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--dim", type=int, default=32, help="numbers of a head")
    options = parser.parse_args()
    print(f"{TOKENS:,} tokens, {options.heads} heads of {options.dim}\n")
    print("| tokens a text | bf16, ms | fp32, ms | ratio |\n| ---: | ---: | ---: | ---: |")
    for length in (16, 32, 64, 128, 256, 512):
        half, full = (
            milliseconds(length, options.heads, options.dim, fp32=fp32) for fp32 in (False, True)
        )
        print(f"| {length} | {half:.1f} | {full:.1f} | {half / full:.1f} |", flush=True)


if __name__ == "__main__":
    main()
