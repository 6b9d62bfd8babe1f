"""Attention one query and one head at a time: what the flash kernels are compared with, and stand-in where none are."""

import torch

from ppo_pipeline.compute.flash import Spans


def attend_slowly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Spans, scale: float) -> torch.Tensor:
    """Return softmax(scale q k) v as compute/flash.py has it, by its definition."""
    queries, keys = spans.queries.tolist(), spans.keys.tolist()
    groups, rows = q.shape[1] // k.shape[1], []
    for sequence in range(len(queries) - 1):
        count = queries[sequence + 1] - queries[sequence]
        used = keys[sequence + 1] - keys[sequence] if spans.used is None else int(spans.used[sequence])
        for place in range(count):
            seen = slice(keys[sequence], keys[sequence] + used - (count - 1 - place))
            row = q[queries[sequence] + place]
            heads = []
            for head in range(q.shape[1]):
                share = torch.softmax(scale * (k[seen, head // groups] @ row[head]), 0)
                heads.append(share @ v[seen, head // groups])
            rows.append(torch.stack(heads))
    return torch.stack(rows)
