"""A round's update from a checkpoint to the next one: PPO with what its settings ask for, and the state it leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..compute.machine import Machine
from ..maths.schedule import learning_rate_factor
from ..models.acceleration import accelerate_policy
from ..models.averaging import newest_adapters, write_average
from ..models.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from ..models.policy import Policy
from ..observe.counter import Counter
from ..resume.scratch import Scratch
from ..settings.stage_settings import UpdateSettings
from ..tables.advantages import ADVANTAGES
from ..tables.controllers import Controllers
from ..tables.reference import REFERENCE
from ..tables.rollouts import ROLLOUTS
from ..tables.schema import same_order
from .critic_warmup import freeze_policy, settings_of_round
from .data import Sampled, sampled
from .groups import fitting
from .loss_inputs import LossInputs, loss_inputs_of
from .loss_scale import loss_scaler
from .optimizer import make_optimizer, moments_of
from .ppo import PPO
from .ranks import ProcessRanks, Ranks

if TYPE_CHECKING:
    from ..project.paths import Paths


@dataclass(frozen=True)
class Updated:
    """What is to be known of an update that is made. numbers: its metrics. scratch: where it kept what was done.
    idle_seconds: in which each rank waited for the others.
    """

    numbers: dict[str, float]
    steps: int
    stopped: bool
    padding_share: float
    scratch: Scratch
    idle_seconds: list[float]


@dataclass(frozen=True)
class RoundUpdate:
    """The update of a round, by this process or by ranks together (engine/together.py).

    less_memory: what to do where memory ran out.
    """

    settings: UpdateSettings
    paths: "Paths"
    less_memory: str

    def ranks(self, workers: int) -> int:
        """Return how many of so many workers can have a part: with LoRA a power of two, and a group for each."""
        whole = (self.paths.parent_policy / "config.json").is_file()
        return workers if whole else fitting(workers, self.settings.update.gradient_groups)

    def __call__(self, machine: Machine, counter: Counter, many: bool) -> Updated:
        """Load the parent's checkpoint, make epochs x minibatches steps, write the new checkpoint: rank 0 does."""
        ranks = ProcessRanks(self.less_memory) if many else Ranks()
        s, paths, update = self.settings, self.paths, settings_of_round(self.settings)
        factor = learning_rate_factor(s.depth, update.lr_schedule, update.warmup_rounds, update.schedule_rounds)
        loaded: list[Loaded] = []
        ranks.gather(lambda: loaded.append(self._load(machine)))
        policy, before, controllers, data, targets, of_inputs = loaded.pop()
        scratch = ranks.share(lambda: self._scratch(machine))
        ppo = ppo_of(policy, before, s, factor, machine.dtype, ranks)
        lr = 0.0 if s.critic_alone else update.lr * factor
        behind = max(before.optimizer_step, before.value_step)
        ppo.on_metrics = lambda means: counter.step(behind + ppo.steps, means | {"lr": lr})
        counter.begin()
        ppo.run(
            data, targets, (s.seed, s.round),
            lambda samples, tokens: counter.advance(samples, tokens) if tokens else counter.skip(samples),
            scratch.part("steps"),
        )  # fmt: skip
        idle = ranks.gather(lambda: round(ranks.waited, 1))
        after = state_after(ppo, before, controllers, targets.returns is not None, s.critic_alone)
        whole = ppo.policy.assembled()

        def save() -> None:
            assert whole is not None
            rounds, earlier = update.average_rounds, None
            if rounds > 1 and s.depth > 1:  # r000's adapter is not among them
                earlier = newest_adapters(paths.parent_policy, paths.parent_trainer, rounds - 1)
            where = (paths.parent_policy, paths.policy, paths.trainer)
            save_checkpoint(whole, after, *where, same_policy=s.critic_alone, earlier=earlier)
            write_average(paths.average, paths.policy, paths.trainer, rounds)

        ranks.share(save)
        numbers = {**ppo.metrics(), **of_inputs, "lr": lr}
        if s.critic_alone:
            numbers |= {"policy/steps": 0, "critic/steps": ppo.steps}
        return Updated(numbers, ppo.steps, ppo.stopped, ppo.padding.share, scratch, idle)

    def _load(self, machine: Machine) -> "Loaded":
        """Return what the update goes on from and learns from."""
        paths = self.paths
        columns = ["prompt_ids", "response_ids", "rollout_logprobs", "kept_mass", "finish_reason"]
        rollouts = ROLLOUTS.read(paths.rollouts, columns)
        reference = REFERENCE.read(paths.reference, ["policy_logprobs", "reference_logprobs", "values"])
        advantages = ADVANTAGES.read(paths.advantages, ["advantages", "returns", "correct"])
        controllers = Controllers.read(paths.controllers)
        same_order(rollouts, reference, f"{paths.rollouts} and {paths.reference}")
        same_order(rollouts, advantages, f"{paths.rollouts} and {paths.advantages}")
        targets, of_inputs = loss_inputs_of(rollouts, reference, advantages, settings_of_round(self.settings))
        policy, state = load_checkpoint(*self._parent(), *machine)
        accelerate_policy(policy)
        data = sampled(rollouts, policy.model, self.settings.share_prefix)
        return policy, state, controllers, data, targets, of_inputs

    def _parent(self) -> tuple[Path, Path, Path]:
        return self.paths.base, self.paths.parent_policy, self.paths.parent_trainer

    def _scratch(self, machine: Machine) -> Scratch:
        paths = self.paths
        tables = (paths.rollouts, paths.reference, paths.advantages, paths.controllers)
        inputs = (paths.settings("update"), *self._parent(), *tables)
        return Scratch("update", self.settings.round, inputs, *machine.decides())


Loaded = tuple[Policy, TrainerState, Controllers, Sampled, LossInputs, dict[str, float]]


def ppo_of(
    policy: Policy, state: TrainerState, settings: UpdateSettings, factor: float, dtype: torch.dtype,
    ranks: Ranks | None = None,
) -> PPO:  # fmt: skip
    """Return PPO on `policy`, going on from the parent's `state`; factor: of the learning rates, by their schedule.

    Where there are several ranks and no LoRA, the model is shared out over them.
    """
    s, device = settings_of_round(settings), policy.model.device
    if settings.critic_alone:
        freeze_policy(policy)
    if ranks is not None and ranks.size > 1 and not policy.layers:
        from .sharded import ShardedPolicy  # it imports torch's FSDP

        policy = ShardedPolicy(policy)
    ppo = PPO(
        policy, make_optimizer(policy, s, state, factor), s, settings.temperature, 0, settings.max_new_tokens,
        loss_scaler(device, dtype, state.loss_scale, state.loss_scale_streak), settings.whiten_minibatches, ranks,
    )  # fmt: skip
    if s.gradient_checkpointing:
        policy.save_memory()
    return ppo


def state_after(
    ppo: PPO, before: TrainerState, controllers: Controllers, learns_values: bool, critic_alone: bool = False
) -> TrainerState:
    """Return what training goes on from after the update; critic_alone: the policy's part of it is as it was."""
    scaler, moments = ppo.scaler, moments_of(ppo.policy, ppo.optimizer)
    if critic_alone:
        trained = {name.rpartition(".")[0] for name in moments}
        moments |= {n: t for n, t in before.moments.items() if n.rpartition(".")[0] not in trained}
    return TrainerState(
        optimizer_step=before.optimizer_step + (0 if critic_alone else ppo.steps),
        value_step=before.value_step + (ppo.steps if learns_values else 0),
        loss_scale=scaler.get_scale() if scaler.is_enabled() else None,
        loss_scale_streak=scaler.state_dict()["_growth_tracker"] if scaler.is_enabled() else 0,
        controllers=controllers,
        moments=moments,
    )
