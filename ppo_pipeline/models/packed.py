"""The training forward over sequences packed in one row: no padding, and what they have in common only once.

The row is [prefix | sequence 1 | sequence 2 | ...], or a tree: branches that more than one sequence goes on from, and
each sequence's rest. Every part of a transformer but attention treats each token by itself and need not know of the
sequences. Attention takes its queries, keys and values apart, puts the keys and values above each sequence before its
own, and lays its result end to end again: on CPUs by kernels of our own, on GPUs by torch's flash kernels, and in a
padded batch where these do not serve. In exact arithmetic this is the forward of each sequence alone, and so is its
gradient; on a CPU the forward is so bit by bit.

An architecture takes part through transformers' attention interface; `can_pack` tries whether it does.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..compute import flash
from ..compute.device import gradients_in_one_order
from ..compute.native.attention import Branches, attend_end_to_end, attends, branches_of
from ..errors.machine_faults import is_machines
from .loading import backbone_of, text_config
from .prefix import causal_mask
from .reach import sliding_window

NAME = "end_to_end"
# What changes attention's result in a way that is not written here: soft capping, sinks, position biases, windows.
FOREIGN = ("softcap", "s_aux", "position_bias", "sliding_window")
# Up to this many keys the backward pass below is faster than torch's on a CPU, 4.7 times at 80; docs/performance.md.
FEW_KEYS = 256


@dataclass
class Layout:
    """Where sequences lie in a row of N tokens of which the first `prefix` are common to all.

    positions: (1, N) within each sequence. padded: (B, T) index, counted behind the prefix, of each sequence's
    tokens, 0 for padding. flat: (n,) index of the row's tokens behind the prefix in the flattened (B T,). branches: of
    the row. is_tree: whether each branch is a sequence above, and the prefix 0. calls: how often attention was asked to
    follow it.
    """

    prefix: int
    positions: Tensor
    padded: Tensor
    flat: Tensor
    branches: Branches
    is_tree: bool = False
    calls: int = 0

    @property
    def tokens(self) -> int:
        """Return the tokens of the row, without padding."""
        return int(self.branches.starts[-1])

    @cached_property
    def keys_seen(self) -> Tensor:
        """Return the index (B, W) of all tokens that each branch sees, 0 for padding."""
        return torch.nn.utils.rnn.pad_sequence(self._seen, batch_first=True).to(self.padded.device)

    @cached_property
    def keys_by_span(self) -> tuple[flash.Spans, Tensor | None]:
        """Return the same for the flash kernels, and where the row has the keys: None where that is in their order."""
        starts, counts = self.branches.starts, [len(own) for own in self._seen]
        begins = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
        queries, keys = (x.to(self.padded.device, torch.int32) for x in (starts, begins))
        spans = flash.Spans(queries, keys, int(starts.diff().max()), max(counts))
        shared = int(self.branches.befores.max())
        return spans, torch.cat(self._seen).to(self.padded.device) if shared else None

    @cached_property
    def _seen(self) -> list[Tensor]:
        """Return the tokens that each branch sees, as index of the row."""
        seen: list[Tensor] = []
        bounds = itertools.pairwise(self.branches.starts.tolist())
        for parent, (start, stop) in zip(self.branches.parents.tolist(), bounds, strict=True):
            own = torch.arange(start, stop)
            seen.append(own if parent < 0 else torch.cat([seen[parent], own]))
        return seen


def packed_layout(lengths: Tensor, prefix: int, total: int, width: int, device: torch.device) -> Layout:
    """Return the layout of sequences of `lengths` (B,) tokens behind the prefix, in a row of `total` tokens.

    width: of the padded batch within attention. Tokens behind the last sequence are padding.
    """
    padded, flat, own = _taken_apart(lengths, width)
    tail = torch.zeros(total - prefix - len(own), dtype=own.dtype)
    positions = torch.cat([torch.arange(prefix), own + prefix, tail])
    branches = branches_of([prefix, *lengths.tolist()], [-1] + [0] * len(lengths))
    return Layout(prefix, positions[None].to(device), padded.to(device), flat.to(device), branches)


def tree_layout(lengths: Sequence[int], parents: Sequence[int], total: int, device: torch.device) -> Layout:
    """Return the layout of a tree's branches of so many tokens, in a row of `total` tokens; parents as in Branches."""
    branches = branches_of(lengths, parents)
    counts = torch.tensor(lengths)
    padded, flat, own = _taken_apart(counts, int(counts.max()))
    own += torch.repeat_interleave(branches.befores, counts)
    positions = torch.cat([own, torch.zeros(total - len(own), dtype=own.dtype)])
    return Layout(0, positions[None].to(device), padded.to(device), flat.to(device), branches, is_tree=True)


def _taken_apart(lengths: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return `padded` and `flat` of a Layout, and the place (n,) of each token in its sequence."""
    starts = lengths.cumsum(0) - lengths
    steps = torch.arange(width)
    inside = steps < lengths[:, None]
    padded = torch.where(inside, starts[:, None] + steps, 0)
    return padded, inside.flatten().nonzero()[:, 0], steps.expand_as(inside)[inside]


def attend_by_layout(model: Any) -> None:
    """Have the model's attention follow the layout that a forward is given."""
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def packed_hidden(model: Any, ids: Tensor, layout: Layout) -> Tensor:
    """Return the model's last hidden states (1, N, H) of a row of tokens (1, N)."""
    attend_by_layout(model)
    output = backbone_of(model)(input_ids=ids, position_ids=layout.positions, use_cache=False, sequence_layout=layout)
    hidden: Tensor = output.last_hidden_state
    return hidden


@torch.no_grad()
def can_pack(model: Any) -> bool:
    """Tell whether the model's layers all attend through the interface, and give what each sequence alone gives.

    In half precision a trained model may amplify rounding a lot for some tokens, hence the median and a wide limit
    there: what goes through a wrong attention is wrong in all tokens of a sequence. What else looks back, such as a
    short convolution, may be wrong in few; so no token may depend on what stands in the sequence before its own.
    """
    config = text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if sliding_window(model) is not None or kinds:
        return False
    if not model._can_set_attn_implementation():
        return False
    ids = torch.arange(1, 15, device=model.device)[None] * 7919 % config.vocab_size
    others = ids.clone()
    others[:, 4:9] = (ids[:, 4:9] + 1) % config.vocab_size
    before = model.config._attn_implementation
    alone = torch.cat([ids[:, :9], torch.cat([ids[:, :4], ids[:, 9:]], 1)])
    expected = backbone_of(model)(input_ids=alone, use_cache=False).last_hidden_state[:, 4:].flatten(0, 1)
    layout = packed_layout(torch.tensor([5, 5]), 4, 14, 8, model.device)
    try:
        found, beside_others = (packed_hidden(model, row, layout)[0, 4:] for row in (ids, others))
        error = _errors(found, expected).view(2, 5).cpu().median(1).values.max()  # a GPU's median may vary
        leaked = _errors(beside_others[5:], found[5:]).max()
        limit = 1e-3 if model.dtype == torch.float32 else 0.3
        fits = layout.calls == 2 * config.num_hidden_layers and bool(error < limit) and bool(leaked < limit)
    except Exception as fault:  # what a foreign model raises at what it does not know, it alone knows
        if is_machines(fault):
            raise
        fits = False
    if not fits:
        model.set_attn_implementation(before)
    return fits


def can_branch(model: Any) -> bool:
    """Tell whether the sequences that a model packs may be a tree, each with the bits that it has by itself.

    torch's attention on a CPU rounds by the number of queries, so there it takes the kernels.
    """
    return model.device.type != "cpu" or attends(torch.empty(1, head_size(model), dtype=model.dtype))


def head_size(model: Any) -> int:
    """Return the numbers of one attention head; 1 for a model without, or with several kinds."""
    config = text_config(model)
    try:
        heads, size = getattr(config, "num_attention_heads", None), getattr(config, "head_dim", None)
    except RuntimeError:  # transformers': layers differ in it
        return 1
    return int(size or (config.hidden_size // heads if heads else 1))  # recurrent models have no heads


def serves_flash(model: Any) -> bool:
    """Tell whether the flash kernels take the model's heads."""
    return flash.serves(model.device, model.dtype, head_size(model))


def _errors(found: Tensor, expected: Tensor) -> Tensor:
    """Return the relative error of each row (n, H) in the 2-norm."""
    norms = torch.linalg.vector_norm(expected.float(), dim=1)
    return torch.linalg.vector_norm((found - expected).float(), dim=1) / norms


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequence_layout: Layout | flash.Spans | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend within sequences packed, (1, heads, N, d) to (1, N, heads, d); without a layout, as `sdpa` does.

    With Spans: of one query for each row, (n, heads, 1, d) to (n, 1, heads, d), over keys (n, kv_heads, t, d) that lie
    in memory by token. Raises NotImplementedError for a kind of attention that is not plain.
    """
    if sequence_layout is None:
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)
    if dropout or attention_mask is not None or any(more.get(name) is not None for name in FOREIGN):
        raise NotImplementedError("attention that is not plain")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if isinstance(sequence_layout, flash.Spans):
        if not (_by_flash(query, value) and key.transpose(1, 2).is_contiguous()):
            raise NotImplementedError("keys that are not the cache's own")
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
        return flash.attend(query[:, :, 0], k, v, sequence_layout, scale)[:, None], None
    sequence_layout.calls += 1
    # (1, heads, N, d) to (N, heads, d): how the projections left them in memory
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    known = len(k) - len(q)  # keys of tokens before the row, from a cache; nobody asks for their result
    q = torch.cat([q.new_zeros(known, *q.shape[1:]), q]) if known else q
    if attends(q):
        return attend_end_to_end(q, k, v, sequence_layout.branches, scale)[None, known:], None
    if _by_flash(q, v):
        return _end_to_end(q, k, v, sequence_layout, scale)[None, known:], None
    groups = q.shape[1] // k.shape[1]
    if q.device.type == "cpu":  # its kernels round a sequence differently in batches of other widths
        return _one_by_one(q, k, v, sequence_layout.branches, groups, scale)[None, known:], None
    if sequence_layout.is_tree:
        return _tree_at_once(q, k, v, sequence_layout, groups, scale)[None, known:], None
    before = sequence_layout.prefix
    parts = []
    if before:
        first = [x[:before][None] for x in (q, k, v)]
        parts.append(_attend(first[0], first[1], first[2], groups, scale)[0])
    own = [_Padded.apply(x[before:], sequence_layout) for x in (q, k, v)]
    if before:
        own[1:] = [
            torch.cat([x[:before].expand(len(y), -1, -1, -1), y], 1) for x, y in zip((k, v), own[1:], strict=True)
        ]
    parts.append(_Flat.apply(_attend(own[0], own[1], own[2], groups, scale), sequence_layout, len(q) - before))
    return torch.cat(parts)[None] if len(parts) > 1 else parts[0][None], None


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, branches: Branches, groups: int, scale: float) -> Tensor:
    """Attend within each branch and what is above it, one after the other: (N, heads, d)."""
    parts = []
    for branch in range(len(branches.parents)):
        places = branches.above(branch)
        if places[-1].start == places[-1].stop:
            continue
        own = [torch.cat([x[place] for place in places])[None] for x in (k, v)]
        parts.append(_attend(q[places[-1]][None], own[0], own[1], groups, scale)[0])
    parts.append(torch.zeros_like(q[sum(map(len, parts)) :]))
    return torch.cat(parts)


def _by_flash(q: Tensor, v: Tensor) -> bool:
    """Tell whether the flash kernels take such queries (..., d) and values (..., d)."""
    return q.shape[-1] == v.shape[-1] and flash.serves(q.device, q.dtype, q.shape[-1])


def _end_to_end(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attend by the flash kernels within all sequences, each with a copy of the keys above it: (N, heads, d)."""
    spans, places = layout.keys_by_span
    pair = torch.stack([k, v], 1)  # one index, and one sum of its gradients, for both
    pair = pair[: layout.tokens] if places is None else pair[places]
    out = flash.attend(q[: layout.tokens], pair[:, 0], pair[:, 1], spans, scale)
    return torch.cat([out, out.new_zeros(len(q) - len(out), *out.shape[1:])])


def _tree_at_once(q: Tensor, k: Tensor, v: Tensor, layout: Layout, groups: int, scale: float) -> Tensor:
    """Attend within all branches of a tree in one padded batch: (N, heads, d)."""
    keys = layout.keys_seen
    steps = torch.arange(layout.padded.shape[1], device=q.device)
    last = layout.branches.befores.to(q.device)[:, None] + steps  # that a query sees
    seen = torch.arange(keys.shape[1], device=q.device) <= last[..., None]
    out = _attend(_Padded.apply(q, layout), k[keys], v[keys], groups, scale, seen[:, None])
    return _Flat.apply(out, layout, len(q))  # type: ignore[no-any-return]


def _attend(q: Tensor, k: Tensor, v: Tensor, groups: int, scale: float, seen: Tensor | None = None) -> Tensor:
    """Attend: (B, T, heads, d), (B, S, heads / groups, d); causally, the last query to the last key, or as `seen` says.

    The queries that share keys (grouped-query attention) are joined, so that no key is copied. seen: (B, 1, T, S).
    """
    rows, width, heads, size = q.shape
    q = q.view(rows, width, heads // groups, groups, size).permute(0, 2, 3, 1, 4).flatten(2, 3)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    span = k.shape[2]
    seen = causal_mask(width, span, q.device) if seen is None else seen
    seen = seen.repeat(*[1] * (seen.ndim - 2), groups, 1)
    if q.device.type == "cpu" and span <= FEW_KEYS and torch.is_grad_enabled():
        out = _FewKeys.apply(q, k, v, seen, scale)
    else:
        out = gradients_in_one_order(functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale))
    return out.unflatten(2, (groups, width)).permute(0, 3, 1, 2, 4).flatten(2, 3)


class _FewKeys(torch.autograd.Function):
    """torch's attention with a backward pass of matrix products over all rows at a time.

    P = softmax(s Q K^T), dV = P^T dO, dS = P (dO V^T - rowsum(dO O)), dQ = s dS K, dK = s dS^T Q (Dao et al. 2022,
    arXiv:2205.14135, appendix B.2). P and dS are fp32 and rounded for the products that follow, as torch's are.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        ctx.save_for_backward(q, k, v, out, seen)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, seen = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = torch.matmul(q.to(wide), k.to(wide).transpose(-1, -2)).mul_(ctx.scale)
        p = torch.softmax(scores.masked_fill_(~seen, -torch.inf), -1)
        shared = torch.linalg.vecdot(grad.to(wide), out.to(wide))[..., None]
        ds = torch.matmul(grad.to(wide), v.to(wide).transpose(-1, -2)).sub_(shared).mul_(p).mul_(ctx.scale).to(q.dtype)
        p = p.to(q.dtype)
        return ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad, None, None


class _Padded(torch.autograd.Function):
    """(n, ...) packed to a padded batch (B, T, ...); padding is a copy of some token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.count = layout, len(x)
        return x[layout.padded]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _flat(grad, ctx.layout, ctx.count), None


class _Flat(torch.autograd.Function):
    """The inverse: a padded batch (B, T, ...) to `count` tokens end to end, those of no sequence 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, count: int) -> Tensor:
        ctx.layout, ctx.shape = layout, x.shape
        return _flat(x, layout, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        out = grad.new_zeros(ctx.shape)
        flat = ctx.layout.flat
        out.flatten(0, 1)[flat] = grad[: len(flat)]
        return out, None, None


def _flat(x: Tensor, layout: Layout, count: int) -> Tensor:
    taken = x.flatten(0, 1)[layout.flat]
    if count == len(taken):
        return taken
    return torch.cat([taken, taken.new_zeros(count - len(taken), *taken.shape[1:])])


def sdpa(*args: Any, **more: Any) -> tuple[Tensor, None]:
    """Attend as transformers does by torch's SDPA, and to the same gradients each time."""
    out, nothing = sdpa_attention_forward(*args, **more)
    return gradients_in_one_order(out), nothing


AttentionInterface.register(NAME, attention)
AttentionInterface.register("sdpa", sdpa)  # for the models that cannot be packed
