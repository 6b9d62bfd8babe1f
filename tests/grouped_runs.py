"""Updates by gradient groups, in this process or on processes of torch.distributed, and what came of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from updating import (
    TEMPERATURE,
    make_data,
    make_policy,
    make_targets,
    parameters_of,
    update_settings,
    weights_of,
    with_chosen,
)

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.tensors import checksum
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.training.critic_warmup import freeze_policy
from ppo_pipeline.training.loss_scale import loss_scaler
from ppo_pipeline.training.optimizer import make_optimizer, moments_of
from ppo_pipeline.training.ppo import PPO
from ppo_pipeline.training.ranks import Ranks

GROUPS = 4
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "clipping": {"settings": {"max_grad_norm": 0.01}},
    "target kl": {"settings": {"target_kl": 0.002, "epochs": 4}},
    "separate critic": {"policy": {"critic": "separate"}},
    "no critic": {"policy": {"critic": "none"}},
    "values not learned": {"returns": False, "settings": {"weight_decay": 0.1}},
    "critic alone": {"frozen": True},
    "empty groups": {"count": 3},
    "sequence mean, whitened": {"settings": {"loss_normalization": "sequence_mean"}, "whiten": True},
    "weighted": {"weights": True},
    "gspo, some chosen": {"chosen": True, "settings": {"policy_loss": "gspo", "likelihood_coef": 0.3}},
    "fp16": {"dtype": torch.float16, "scale": 2.0**40, "settings": {"epochs": 12}},
}


class Killed(BaseException):
    """In place of SIGKILL."""


def build(case: str, ranks: Ranks | None = None, tuning: str = "lora", **settings: Any) -> tuple[PPO, Any, Any]:
    """Return an update that has not begun, its samples and its targets."""
    options = CASES[case]
    policy, data = make_policy(tuning=tuning, **options.get("policy", {})), make_data(options.get("count", 13))
    targets = make_targets(policy, data)
    if options.get("frozen"):
        freeze_policy(policy)
    if not options.get("returns", True):
        targets = targets.__class__(targets.old_logprobs, None, targets.advantages, None)
    if options.get("weights"):
        targets = replace(targets, weights=weights_of(data))
    if options.get("chosen"):
        targets = with_chosen(targets, data)
    dtype = options.get("dtype", torch.float32)
    policy.model.to(dtype)
    for layer in policy.all_layers():
        layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.float(), layer.lora_B.data.float()
        layer.dropout.p = options.get("dropout", 0.0)
    merged = {"microbatch_tokens": 40, "gradient_groups": GROUPS} | options.get("settings", {}) | settings
    s = update_settings(**merged)
    scaler = loss_scaler(torch.device("cpu"), dtype, options.get("scale"), 0)
    optimizer = make_optimizer(policy, s, TrainerState())
    ppo = PPO(policy, optimizer, s, TEMPERATURE, 0, 1, scaler, options.get("whiten", False), ranks)
    return ppo, data, targets


def outcome(ppo: PPO) -> dict[str, Any]:
    """Return all that is to be the same, to the bit."""
    return {
        "weights": checksum(parameters_of(ppo.policy)),
        "moments": checksum(moments_of(ppo.policy, ppo.optimizer)),
        "metrics": ppo.metrics(),
        "counts": [ppo.steps, ppo.skipped, ppo.stopped, ppo.padding.tokens, ppo.padding.places],
        "scaler": ppo.scaler.state_dict(),
    }


def finished(case: str, ranks: Ranks) -> dict[str, Any]:
    """Run a case to its end."""
    ppo, data, targets = build(case, ranks)
    ppo.run(data, targets, ("k",))
    return outcome(ppo)


def killed(ranks: Ranks, folder: str, steps: int) -> list[int]:
    """Make snapshots at every minibatch, until so many are done; return the tokens of each."""
    ppo, data, targets = build("dropout", ranks)
    made: list[int] = []

    def on_step(samples: int, tokens: int) -> None:
        made.append(tokens)
        if len(made) == steps:
            raise Killed

    try:
        ppo.run(data, targets, ("k",), on_step, always(folder))
    except Killed:
        return made
    raise AssertionError("it ended")


def resumed(ranks: Ranks, folder: str) -> dict[str, Any]:
    """Go on from there to the end; `steps` are the tokens of those made."""
    ppo, data, targets = build("dropout", ranks)
    torch.manual_seed(99 + ranks.rank)
    steps: list[int] = []
    ppo.run(data, targets, ("k",), lambda samples, tokens: steps.append(tokens), always(folder))
    return {**outcome(ppo), "steps": steps}


def always(folder: str) -> Snapshots:
    """Return snapshots that are always due."""
    found = Snapshots(Path(folder), "update")
    found._pause = lambda: 0.0  # type: ignore[method-assign]
    return found


def fault(ranks: Ranks, kind: str, folder: str) -> str:
    """Have rank 1 alone meet a fault; return the error that this rank raises."""
    ppo, data, targets = build("plain", ranks)
    if kind == "not finite" and ranks.rank == 1:
        for advantages in targets.advantages:
            advantages.fill_(float("nan"))
    if kind == "out of memory" and ranks.rank == 1:
        ppo._microbatch = no_memory  # type: ignore[method-assign]
    try:
        ppo.run(data, targets, ("k",), snapshots=Snapshots(Path(folder), "update"))
    except PipelineError as error:
        return error.message
    return ""


def no_memory(*arguments: Any) -> Any:
    raise MemoryError


def summed(ranks: Ranks, count: int) -> list[float]:
    """Return the ranks' sum of tensors (count,) of which any other order gives another."""
    torch.manual_seed(ranks.rank)
    return ranks.tree_sum(torch.randn(count) * 10.0 ** torch.randint(-4, 5, (count,))).tolist()


def shared(ranks: Ranks) -> list[Any]:
    """Return what gather and share make of the rank's number."""
    return [ranks.gather(lambda: ranks.rank), ranks.share(lambda: ranks.rank)]
