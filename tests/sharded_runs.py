"""Updates of a whole model spread over processes of torch.distributed; and the same ones in one process."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from ppo_pipeline.models.loading import backbone_of
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.tensors import checksum
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.training import eight_bit
from ppo_pipeline.training.batches import shuffled_minibatches
from ppo_pipeline.training.critic_warmup import freeze_policy
from ppo_pipeline.training.optimizer import make_optimizer, moments_of, trained_parameters
from ppo_pipeline.training.ppo import PPO
from ppo_pipeline.training.ranks import Ranks
from ppo_pipeline.training.round_update import state_after

# Case: the critic, and what else is not as in the first one. Minibatches of 1 or 2 samples leave a rank without any.
CASES: dict[str, dict[str, Any]] = {
    "shared": {},
    "separate": {"critic": "separate"},
    "none": {"critic": "none"},
    "packed": {"packed": True},
    "packed separate": {"packed": True, "critic": "separate"},
    "checkpointing": {"critic": "separate", "saving": True},
    "gpt2": {"architecture": "gpt2"},
    "few samples": {"settings": {"minibatches": 5}},
    "groups": {"settings": {"gradient_groups": 8}},
    "clipping": {"settings": {"max_grad_norm": 0.01}},
    "sequence mean, whitened": {"settings": {"loss_normalization": "sequence_mean"}, "whiten": True},
    "weighted": {"weights": True},
    "gspo, some chosen": {"chosen": True, "settings": {"policy_loss": "gspo", "likelihood_coef": 0.3}},
    "target kl": {"settings": {"target_kl": 0.002, "epochs": 4, "lr": 1e-3}},
    "bf16": {"dtype": torch.bfloat16},
    "8 bits": {"settings": {"optimizer": "adamw_8bit"}},
}

FROZEN = {"critic alone": {}, "separate critic alone": {"critic": "separate"}}  # the policy gets no gradient


class Killed(BaseException):
    """In place of SIGKILL."""


def spread(policy: Policy, ranks: Ranks) -> Policy:
    """Return the policy, shared out where there are several ranks."""
    if ranks.size == 1:
        return policy
    from ppo_pipeline.training.sharded import ShardedPolicy

    return ShardedPolicy(policy)


def build(case: str, ranks: Ranks, state: TrainerState | None = None, **settings: Any) -> tuple[PPO, Any, Any]:
    """Return an update that has not begun, its samples and its targets."""
    options = {**CASES, **FROZEN}[case]
    made = {"architecture": options.get("architecture", "llama"), "critic": options.get("critic", "shared")}
    data = make_data(9)
    targets = make_targets(make_policy(**made, tuning="full"), data)
    if options.get("weights"):
        targets = replace(targets, weights=weights_of(data))
    if options.get("chosen"):
        targets = with_chosen(targets, data)
    policy = make_policy(**made, tuning="full")
    for model in (policy.model, *([policy.separate.model] if policy.separate else ())):
        model.to(options.get("dtype", torch.float32))
    if policy.separate:  # as a checkpoint is loaded
        backbone_of(policy.separate.model.requires_grad_(False)).requires_grad_(True)
    accelerate_policy(policy)
    if case in FROZEN:
        freeze_policy(policy)
    policy = spread(policy, ranks)
    if case == "8 bits":
        eight_bit.SHORTEST = 16  # of the tiny model's rows too; the tests put it back
    s = update_settings(**{"microbatch_tokens": 20, "lr": 1e-4, **options.get("settings", {}), **settings})
    optimizer = make_optimizer(policy, s, state or TrainerState())
    whiten = options.get("whiten", False)
    ppo = PPO(policy, optimizer, s, TEMPERATURE, 0, whiten_minibatches=whiten, ranks=ranks)
    if options.get("saving"):
        policy.save_memory()
    return ppo, replace(data, packed=options.get("packed", False)), targets


def gradients(case: str, ranks: Ranks, on_root_alone: bool = False) -> dict[str, Tensor]:
    """Return the first minibatch's gradient, whole, on rank 0. on_root_alone: sum them there, average elsewhere."""
    if on_root_alone:
        from ppo_pipeline.training import sharded

        of_all, sharded.units_of = sharded.units_of, lambda root: [root]
    ppo, data, targets = build(case, ranks, epochs=1)
    if on_root_alone:
        sharded.units_of = of_all
    indices = shuffled_minibatches(9, ppo.settings.minibatches, np.random.default_rng(0))[0]
    ppo.gradient(data, targets, indices, 50)
    grads = {name: p.grad for name, p in trained_parameters(ppo.policy).items() if p.grad is not None}
    return of_rank_0((name, ppo.policy.whole(name, grad)) for name, grad in grads.items())


def of_rank_0(named: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named if tensor is not None}


def finished(case: str, ranks: Ranks, **run: Any) -> dict[str, Any]:
    """Run a case to its end; return what came of it, on rank 0 with weights and moments."""
    ppo, data, targets = build(case, ranks)
    ppo.run(data, targets, ("k",), **run)
    moments = moments_of(ppo.policy, ppo.optimizer)
    whole = ppo.policy.assembled()
    return {
        "tensors": {} if whole is None else {**parameters_of(whole), **moments},
        "metrics": ppo.metrics(),
        "counts": [ppo.steps, ppo.stopped, ppo.padding.tokens, ppo.padding.places],
    }


def bits(case: str, ranks: Ranks) -> str:
    """Return a hash of what a case ends with."""
    return checksum(finished(case, ranks)["tensors"])


def killed(case: str, ranks: Ranks, folder: str) -> None:
    """Make snapshots at every minibatch, and stop after three of four; the last one, of two, is there twice."""
    done: list[int] = []

    def on_step(samples: int, tokens: int) -> None:
        done.append(tokens)
        if len(done) == 3:
            raise Killed

    with suppress(Killed):
        finished(case, ranks, on_step=on_step, snapshots=always(folder))
    ranks.share(lambda: shutil.copytree(folder, f"{folder} again"))


def resumed(case: str, ranks: Ranks, folder: str) -> dict[str, Any]:
    """Go on from there to the end; `done` tells of each on_step whether it was a step."""
    steps: list[int] = []
    found = finished(case, ranks, on_step=lambda samples, tokens: steps.append(tokens), snapshots=always(folder))
    return {**found, "done": [bool(tokens) for tokens in steps]}


def killed_within(case: str, folder: str) -> None:
    """Make snapshots in one process, and stop behind the second microbatch of the second minibatch."""
    ppo, data, targets = build(case, Ranks())
    microbatch = ppo._microbatch

    def die_there(*arguments: Any) -> Any:
        if (ppo.position.minibatch, ppo.position.microbatch) == (1, 2):
            raise Killed
        return microbatch(*arguments)

    ppo._microbatch = die_there  # type: ignore[method-assign]
    with suppress(Killed):
        ppo.run(data, targets, ("k",), snapshots=always(folder))


def always(folder: str) -> Snapshots:
    """Return snapshots that are always due."""
    found = Snapshots(Path(folder), "update")
    found._pause = lambda: 0.0  # type: ignore[method-assign]
    return found


def not_finite(ranks: Ranks, folder: str) -> str:
    """Have a single sample's advantages be no numbers, which one rank meets; return what this rank raises."""
    ppo, data, targets = build("shared", ranks)
    targets.advantages[4].fill_(float("nan"))
    try:
        ppo.run(data, targets, ("k",), snapshots=Snapshots(Path(folder), "update"))
    except PipelineError as error:
        return error.message
    return ""


def rounds(ranks: Ranks, folder: str, dtype: str) -> None:
    """Make two rounds' updates from checkpoint to checkpoint: folder/base, then r001 and r002, each policy, trainer."""
    device, base = torch.device("cpu"), Path(folder, "base")
    for parent, name in (("r000", "r001"), ("r001", "r002")):
        last = Path(folder, parent)
        policy, state = load_checkpoint(base, last / "policy", last / "trainer", device, getattr(torch, dtype))
        data = make_data(9)
        targets = make_targets(policy, data)
        accelerate_policy(policy)
        policy = spread(policy, ranks)
        s = update_settings(lr=1e-4, value_lr=1e-4, microbatch_tokens=20)
        ppo = PPO(policy, make_optimizer(policy, s, state), s, TEMPERATURE, 0, ranks=ranks)
        ppo.run(data, targets, ("k", name))
        after = state_after(ppo, state, Controllers(), learns_values=True)
        whole = ppo.policy.assembled()
        if whole is not None:
            save_checkpoint(whole, after, last / "policy", Path(folder, name, "policy"), Path(folder, name, "trainer"))
        ranks.gather(lambda: None)


def moved(ranks: Ranks) -> list[Any]:
    """Share out tensors of 5 and 1 rows, and put them together again."""
    from ppo_pipeline.training.parts import gathered, part_of

    found = []
    for whole in (torch.arange(15, dtype=torch.int16).view(5, 3) - 7, torch.tensor([2.5])):
        part = part_of(whole)
        again = gathered(part, whole.shape)
        same = None if again is None else torch.equal(again, whole) and again.dtype == whole.dtype
        found.append([part.tolist(), same])
    return found
