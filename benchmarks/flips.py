"""How often another batch size of the sampler changes a text: only where rounding flips a token.

Each sample has its own random numbers, so nothing but the rounding of matrix products of another height can.
"""

from pathlib import Path
from typing import Any

import torch

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.acceleration import accelerate_model
from ppo_pipeline.models.loading import load_model, load_tokenizer, stop_ids_of
from ppo_pipeline.prompts.rendering import render
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.sections import Compute

from .prompts import prompts

COUNT, LENGTH, SIZES = 128, 48, (128, 32, 8)


def run(base: Path) -> list[dict[str, Any]]:
    """Return a row for each dtype: texts that differ from those of the largest batch."""
    tokenizer = load_tokenizer(base)
    ids = [render(tokenizer, [{"role": "user", "content": text}], "auto")[1] for text in prompts(COUNT)]
    rows = []
    for name in ("fp32", "bf16"):
        compute = Compute(device="auto", dtype=name, threads=0, kernels="auto", batch_invariant=False, head="auto")
        device, dtype = set_up(compute)
        model = load_model(base, device, dtype)
        accelerate_model(model)
        stop_ids = stop_ids_of(model, tokenizer)
        requests = [Request(p, uniforms(0, str(i), LENGTH)) for i, p in enumerate(ids)]
        with torch.inference_mode():
            texts = [Decoder(model, stop_ids, LENGTH, 0.7, size).decode(requests) for size in (SIZES[0], *SIZES)]
        found = [compare(texts[0], other) for other in texts[1:]]
        pairs = zip(SIZES, found, strict=True)
        shown = [f"batch {size}: {f['texts']} of {COUNT} texts, {f['per_token']:.2%} a token" for size, f in pairs]
        rows.append({"what": f"texts that another batch size changes, {name}", "ours": "; ".join(shown),
                     "figures": {"sizes": SIZES, "found": found}})  # fmt: skip
    return rows


def compare(one: list[Response], other: list[Response]) -> dict[str, float]:
    """Return how many texts differ, and how often a token flips where all before it are the same."""
    flips = same = 0
    for a, b in zip(one, other, strict=True):
        pairs = list(zip(a.ids, b.ids, strict=False))  # one may end earlier
        first = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
        same += len(pairs) if first is None else first
        flips += first is not None
    return {"texts": flips, "per_token": flips / (same + flips)}
