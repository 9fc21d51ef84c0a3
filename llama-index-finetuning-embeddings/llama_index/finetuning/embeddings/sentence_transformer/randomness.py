"""Randomness that is the engine's own."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from transformers import set_seed


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and give them back to the user as they were."""
    with preserved():
        set_seed(seed)
        yield


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Leave the generators of Python, NumPy and PyTorch, on the CPU and CUDA, as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
