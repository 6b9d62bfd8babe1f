"""Updates of which one rank dies or fails; ranks on Ray import this by name."""

import os
import signal
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ppo_pipeline.training.ppo import PPO
from ppo_pipeline.training.round_update import RoundUpdate

ATTEMPTS = Path("attempts")


class Watched(RoundUpdate):
    """Writes a line for each start of each rank."""

    def __call__(self, *arguments: Any) -> Any:
        with ATTEMPTS.open("a") as file:
            file.write(f"{dist.get_rank()}\n")
        return super().__call__(*arguments)


class DyingUpdate(Watched):
    """Rank 1 is killed at its fourth step, once."""

    def __call__(self, *arguments: Any) -> Any:
        step = PPO._clip_and_step

        def die(ppo: PPO, *rest: Any) -> None:
            if ppo.steps == 3 and dist.get_rank() == 1 and ATTEMPTS.read_text().count("1") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            step(ppo, *rest)

        PPO._clip_and_step = die  # type: ignore[method-assign]
        return super().__call__(*arguments)


class SpoiledUpdate(Watched):
    """Rank 1 alone meets advantages that are no numbers."""

    def _load(self, machine: Any) -> Any:
        loaded = super()._load(machine)
        targets = loaded[4]
        if dist.get_rank() == 1:
            for advantages in targets.advantages:
                advantages.fill_(float("nan"))
        return loaded
