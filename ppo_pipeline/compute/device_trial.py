"""A trial of attention on Apple's GPU, whose kernels were silently wrong in some releases of torch.

Seen were views that lie otherwise in memory than they read (pytorch issues 163597, 181133) and a mask that is the same
for all heads (pytorch pull request 184180); the decoder's cache and its masks are both.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

TOLERANCE = 1e-3  # of numbers about 1, in fp32; the wrong kernels were off by 0.1 to 4


def attends_rightly(device: torch.device) -> bool:
    """Tell whether attention on the device gives what it gives on the CPU, for what was wrong in the reports."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (drawn(84, 3, 3, 64) for _ in range(3))
    one, keys, values = drawn(4, 1, 3, 64), drawn(8, 3, 40, 64), drawn(8, 3, 40, 64)
    by_row = torch.arange(33) <= torch.tensor([32, 20, 5, 11])[:, None]
    square = drawn(2, 4, 8, 64)
    blocked = torch.zeros(2, 1, 8, 8)
    blocked[0, 0, 4:, :4] = float("-inf")

    def results(where: torch.device) -> list[Tensor]:
        a, b, c, query, cached_k, cached_v, s = (x.to(where) for x in (q, k, v, one, keys, values, square))
        step = (query.transpose(1, 2), cached_k[:4, :, :33], cached_v[:4, :, :33])
        found = [
            attend(a.transpose(1, 2), b.transpose(1, 2), c.transpose(1, 2)),
            attend(*step, attn_mask=by_row[:, None, None].to(where)),
            attend(s, s, s, attn_mask=blocked.to(where)),
        ]
        return [x.cpu() for x in found]

    with torch.inference_mode():
        pairs = zip(results(device), results(torch.device("cpu")), strict=True)
        return all(bool(((a - b).abs() < TOLERANCE).all()) for a, b in pairs)
