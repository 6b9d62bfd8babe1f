"""A tensor's rows shared out over ranks as FSDP does, and put together again on rank 0.

Rank r has the rows from r c to (r + 1) c, c = rows / ranks rounded up; the last ranks may have fewer, or none.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def part_of(tensor: Tensor) -> Tensor:
    """Return a copy of this rank's rows of a whole tensor."""
    rows = -(-len(tensor) // dist.get_world_size())
    start = rows * dist.get_rank()
    return tensor[start : start + rows].clone()


def gathered(part: Tensor, shape: torch.Size) -> Tensor | None:
    """Return on rank 0, in memory, the tensor of `shape` whose parts the ranks have; None on the others.

    All ranks must call it. It travels as bytes, since neither gloo nor NCCL moves int16.
    """
    ranks, own = dist.get_world_size(), part.detach().contiguous().view(-1).view(torch.uint8)
    row = shape[1:].numel() * part.element_size()
    sent = own.new_zeros(-(-shape[0] // ranks) * row)
    sent[: len(own)] = own
    received = [torch.empty_like(sent) for _ in range(ranks)] if dist.get_rank() == 0 else None
    dist.gather(sent, received)
    if received is None:
        return None
    return torch.cat([x.cpu() for x in received])[: shape[0] * row].view(part.dtype).view(shape)
