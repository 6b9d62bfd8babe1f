"""W&B: a run for each line of rounds, which a later call goes on with. Offline it cannot be asked what it has."""

import os

import wandb

from ..errors import PipelineError
from .kept import Kept
from .lines import Line, Points
from .tracker import by_step

ROUND = "round"  # the axis: steps of W&B's own may not go back, as numbers that are sent anew do


class WandbTracker:
    """A Tracker: `where` is the entity, a user or a team. WANDB_MODE=offline keeps all in logs/wandb."""

    def __init__(self, project: str, where: str | None, line: Line) -> None:
        self.project, self.entity, self.line = project, where, line
        self.kept = Kept("wandb", os.environ.get("WANDB_BASE_URL", ""), where or "", project, line.key)
        offline = os.environ.get("WANDB_MODE") == "offline"
        self.place = f"project {project}{'; wandb sync logs/wandb/offline-run-*' if offline else ''}; {self.kept.path}"

    def sent(self) -> Points:
        """Return what the file of points remembers."""
        return self.kept.read()

    def send(self, points: Points) -> None:
        """Add a row for each round."""
        settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
        try:
            run = wandb.init(
                project=self.project, entity=self.entity, id=self.line.key, name=self.line.name, resume="allow",
                config=self.line.settings, dir="logs", settings=settings,
            )  # fmt: skip
            run.define_metric(ROUND, hidden=True)
            run.define_metric("*", step_metric=ROUND)
            for step, numbers in by_step(points):
                run.log({ROUND: step, **numbers})
            run.finish()
        except (wandb.Error, ValueError) as error:
            raise PipelineError(f"--to wandb: {error}; `wandb login`, or WANDB_MODE=offline.") from None
        self.kept.add(points)
