"""The C kernels of attention.c for training: causal attention of sequences packed."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .operations import LANES, call, serves


class Branches(NamedTuple):
    """Where the branches of a tree lie in a row of tokens, one behind the other; int64, on the CPU.

    starts: (S + 1,) where each begins, and what is behind the last one. parents: (S,) the branch that each goes on
    from, -1 for none; all that goes on from a branch follows it without a gap. befores: (S,) tokens above each.
    ends: (S,) the branch behind the last one that goes on from each. rooms: (S,) the sum of `befores` so far.
    """

    starts: Tensor
    parents: Tensor
    befores: Tensor
    ends: Tensor
    rooms: Tensor

    def above(self, branch: int) -> list[slice]:
        """Return where the row has the tokens that a branch sees, from the first one to its own last one."""
        places = []
        while branch >= 0:
            places.append(slice(int(self.starts[branch]), int(self.starts[branch + 1])))
            branch = int(self.parents[branch])
        return places[::-1]


def branches_of(lengths: Sequence[int], parents: Sequence[int]) -> Branches:
    """Return the branches of so many tokens each that go on from `parents`."""
    befores: list[int] = []
    ends = list(range(1, len(lengths) + 1))
    for parent in parents:
        befores.append(befores[parent] + lengths[parent] if parent >= 0 else 0)
    for branch in range(len(parents) - 1, -1, -1):
        if parents[branch] >= 0:
            ends[parents[branch]] = max(ends[parents[branch]], ends[branch])
    starts, rooms = (list(accumulate(counts, initial=0)) for counts in (lengths, befores))
    return Branches(*(torch.tensor(numbers) for numbers in (starts, parents, befores, ends, rooms[:-1])))


def attends(q: Tensor) -> bool:
    """Tell whether the kernels take heads like those of q (..., d)."""
    return serves(q.device, q.dtype) and q.shape[-1] % LANES == 0


def attend_end_to_end(q: Tensor, k: Tensor, v: Tensor, branches: Branches, scale: float) -> Tensor:
    """Return softmax(scale q k) v, (N, heads, d), of each token with those above its branch and its own up to itself.

    q: (N, heads, d). k, v: (N, kv_heads, d). The result is 0 behind the last branch.
    """
    return _Attend.apply(q, k, v, branches, scale)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, branches: Branches, scale: float) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        heads, (kv_heads, size) = q.shape[1], k.shape[1:]
        out, log_sums = torch.empty_like(q), torch.empty(q.shape[:2])
        sizes = (len(branches.parents), kv_heads, heads // kv_heads, size)
        call("attend", q, q, k, v, *branches[:3], out, log_sums, *sizes, scale)
        ctx.end = int(branches.starts[-1])
        out[ctx.end :] = 0
        ctx.save_for_backward(q, k, v, log_sums)
        ctx.branches, ctx.sizes, ctx.scale = branches, sizes, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, log_sums = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        shared = torch.empty(int(ctx.branches.befores.sum()), 2, *k.shape[1:])
        tensors = (q, k, v, grad.contiguous(), log_sums, *ctx.branches, dq, dk, dv, shared)
        call("attend_backward", q, *tensors, *ctx.sizes, ctx.scale)
        for x in (dq, dk, dv):
            x[ctx.end :] = 0
        return dq, dk, dv, None, None
