"""Full-parameter PPO as a notebook does it: all in fp32 and in one process, generate, a frozen copy, plain AdamW.

Written for this benchmark after the notebook's description: 2 prompts x 50 tokens, 2 epochs over minibatches of one
sample. Its reward model is left out on both sides.
"""

import copy
import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.prompts import prompts


def token_logprobs(model: nn.Module, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logprobs of the tokens from `start` on, the entropies, and the last hidden states before them."""
    out = model(input_ids=ids, output_hidden_states=True)
    every = functional.log_softmax(out.logits[:, start - 1 : -1], -1)
    chosen = every.gather(-1, ids[:, start:, None]).squeeze(-1)
    return chosen, -(every.exp() * every).sum(-1), out.hidden_states[-1][:, start - 1 : -1]


def gae(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return advantages with gamma 0.99 and lambda 0.95."""
    advantages, last = torch.zeros_like(rewards), 0.0
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        last = rewards[:, t] + 0.99 * following - values[:, t] + 0.99 * 0.95 * last
        advantages[:, t] = last
    return advantages


def main(base: str, rounds: int) -> None:
    """Print the seconds of each round and the peak memory."""
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    head = nn.Linear(policy.config.hidden_size, 1)
    parameters = [*policy.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    batch = tokenizer(prompts(2), return_tensors="pt", padding=True)
    start = batch["input_ids"].shape[1]
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        with torch.no_grad():
            ids = policy.generate(**batch, do_sample=True, top_k=50, max_new_tokens=50, min_new_tokens=50)
            old, _, hidden = token_logprobs(policy, ids, start)
            ref, _, _ = token_logprobs(reference, ids, start)
            values = head(hidden).squeeze(-1)
            rewards = torch.zeros_like(old)
            rewards[:, -1] = 1.0 - 0.1 * (old - ref).sum(-1)
            advantages = gae(rewards, values)
            returns = advantages + values
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(2):
            for row in torch.randperm(2).split(1):
                new, entropy, hidden = token_logprobs(policy, ids[row], start)
                ratio = (new - old[row]).exp()
                a = advantages[row]
                loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).mean()
                loss = loss + 0.5 * (head(hidden).squeeze(-1) - returns[row]).square().mean() - 0.01 * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
        times.append(time.perf_counter() - began)
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    print(json.dumps({"rounds": times, "rss_gb": round(peak, 2)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
