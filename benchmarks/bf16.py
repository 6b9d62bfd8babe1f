"""What bf16 costs: how far its logprobs of sampled tokens are from those of an fp32 forward, by the head's dtype.

The head's logits are some 20, where bf16 counts in steps of 1/8: MiniMax-M1 (arXiv:2506.13585, section 3.2) found that
alone to keep RL from learning, and computes the head in fp32. Tokens are sampled as in a round, in bf16 with LoRA
merged, at temperature 0.7; all forwards are the training forward, with LoRA beside its base.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.loading import load_model, load_tokenizer, stop_ids_of
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.packed import can_pack
from ppo_pipeline.models.policy import Policy, model_logprobs
from ppo_pipeline.sampling.batch_invariant import load_sampler
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.sections import Compute
from ppo_pipeline.training.data import Sampled

from .prompts import prompt_ids

COUNT, LENGTH, TEMPERATURE, BATCH_TOKENS = 32, 48, 0.7, 1024
STD = 0.005  # of B: some 100 steps of Adam at 3e-4 leave it there


def run(base: Path, policy: Path | None = None) -> list[dict[str, Any]]:
    """Return the rows of the untrained policy and of one with LoRA: the folder's, or a random one."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, std in (("untrained", 0.0), ("random LoRA", STD)):
            adapter = Path(folder, name)
            write_lora(base, adapter, std)
            if std and policy is not None:
                name, adapter = str(policy), policy
            rows += compared(base, adapter, name)
        return rows


def write_lora(base: Path, folder: Path, std: float) -> None:
    """Write an adapter of the committed settings, B drawn with this standard deviation."""
    s, model = load_params().policy, load_model(base, torch.device("cpu"), torch.bfloat16)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, 0.0, s.use_rslora)
    init_lora(layers, 0)
    torch.manual_seed(0)
    for layer in layers.values():
        layer.lora_B.data.normal_(std=std)
    save_policy(Policy(model, layers), adapter_config(s, "base", layers, model), folder)


def compared(base: Path, policy: Path, name: str) -> list[dict[str, Any]]:
    """Return a row for each way to compute the logprobs of the same tokens, against fp32 all through."""
    machine = set_up(compute("bf16", "auto"))
    ids, responses = sampled(base, policy, *machine)
    found = {"head bf16": logprobs(base, policy, ids, responses, *machine)}
    between = {"head bf16": (found["head bf16"], said(responses))}
    machine = set_up(compute("bf16", "fp32"))
    found["head fp32"] = logprobs(base, policy, ids, responses, *machine)
    _, others = sampled(base, policy, *machine)
    between["head fp32"] = (logprobs(base, policy, ids, others, *machine), said(others))
    exact = logprobs(base, policy, ids, responses, *set_up(compute("fp32", "auto")))
    rows = [row(f"{name}: bf16 from fp32, {head}", numbers - exact) for head, numbers in found.items()]
    return rows + [row(f"{name}: sampler from training forward, {head}", a - b) for head, (a, b) in between.items()]


def said(responses: list[Response]) -> Tensor:
    """Return the sampler's own logprobs."""
    return torch.tensor([x for response in responses for x in response.logprobs])


def row(what: str, differences: Tensor) -> dict[str, Any]:
    """Return how large differences of logprobs are."""
    away = differences.abs().double()
    mean, tail, largest = away.mean().item(), away.quantile(0.99).item(), away.max().item()
    return {
        "what": f"{what}, {len(away):,} tokens",
        "ours": f"mean {mean:.4f}, 99 % within {tail:.4f}, largest {largest:.3f}",
        "figures": {"mean": mean, "p99": tail, "max": largest},
    }


def compute(dtype: Any, head: Any) -> Compute:
    """Return the settings of the machine."""
    return Compute(device="auto", dtype=dtype, threads=0, kernels="auto", batch_invariant=False, head=head)


def sampled(
    base: Path, policy: Path, device: torch.device, dtype: torch.dtype
) -> tuple[list[list[int]], list[Response]]:
    """Return prompts, and a response to each."""
    tokenizer = load_tokenizer(base)
    ids = prompt_ids(tokenizer, COUNT)
    model, kind = load_sampler(base, policy, device, dtype, False)
    requests = [Request(tuple(p), uniforms(0, str(i), LENGTH)) for i, p in enumerate(ids)]
    return ids, kind(model, stop_ids_of(model, tokenizer), LENGTH, TEMPERATURE, COUNT).decode(requests)


@torch.no_grad()
def logprobs(
    base: Path, policy: Path, ids: list[list[int]], responses: list[Response], device: torch.device,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Return the responses' logprobs by the training forward, in their order."""
    model = load_model(base, device, dtype)
    layers = attach_policy(model, policy)
    accelerate_policy(Policy(model, layers))
    prompts, answers = ([torch.tensor(x, dtype=torch.int32) for x in y] for y in (ids, [r.ids for r in responses]))
    data = Sampled([str(i) for i in range(len(ids))], prompts, answers, can_pack(model), 0)
    found: dict[int, Tensor] = {}
    for rows in data.batches(np.arange(len(ids)), BATCH_TOKENS):
        batch = data.sequences(rows, 0, device)
        made = model_logprobs(model, batch, TEMPERATURE)
        lengths = [len(responses[int(row)].ids) for row in rows]
        found |= dict(zip(map(int, rows), made.cpu().split(lengths), strict=True))
    return torch.cat([found[row] for row in range(len(ids))])
