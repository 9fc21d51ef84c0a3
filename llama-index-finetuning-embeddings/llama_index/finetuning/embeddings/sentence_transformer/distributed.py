"""What several training processes share: rows gathered with their gradients, results of one."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """Return the number of training processes; 1 outside ``torchrun`` and its kin."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this process is the one that evaluates and saves."""
    return world_size() == 1 or dist.get_rank() == 0


def own_device(device: Any | None) -> str | None:
    """Return the device that this process loads its model on; None lets upstream choose.

    A launcher's processes would otherwise all take the first GPU.
    """
    if device is not None:
        return str(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return None


def from_main(make: Callable[[], T]) -> T:
    """Call a function in the main process only, and return its result in all of them.

    Raises:
        RuntimeError: The function failed; the main process raises the error itself.
    """
    if world_size() == 1:
        return make()
    box: list[Any] = [None, None]
    error: BaseException | None = None
    if is_main():
        try:
            box[0] = make()
        except Exception as raised:
            error, box[1] = raised, f"{type(raised).__name__}: {raised}"
    # The others wait here for as long as the main process works.
    dist.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    if box[1] is not None:
        raise RuntimeError(f"The main process failed: {box[1]}")
    result: T = box[0]
    return result


def share_weights(model: nn.Module) -> None:
    """Give every process the main process's weights."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, in the order of the processes, and where our own begin.

    Gradients flow back to the process that a row came from. Processes may have different
    numbers of rows.
    """
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    longest = int(counts.max())
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    blocks: tuple[Tensor, ...] = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    kept = [block[:count] for block, count in zip(blocks, counts.tolist(), strict=True)]
    return torch.cat(kept), int(counts[: dist.get_rank()].sum())


class _AllGather(torch.autograd.Function):
    """Gather equal shapes; a block's gradient is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        blocks = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(blocks, rows.contiguous())
        return tuple(blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = torch.stack(gradients)
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def total(count: int, device: torch.device) -> int:
    """Return the sum of a number over all processes."""
    found = torch.tensor(count, dtype=torch.int64, device=device)
    dist.all_reduce(found)
    return int(found)
