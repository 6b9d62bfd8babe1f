"""trackio: a run for each line of rounds, on this machine, in a Space or on a server. It is not asked what it has."""

import trackio

from ..errors import PipelineError
from .kept import Kept
from .lines import Line, Points
from .tracker import by_step


class TrackioTracker:
    """A Tracker: `where` is a server's address or a Space's name; without one `trackio show` finds it here."""

    def __init__(self, project: str, where: str | None, line: Line) -> None:
        self.project, self.line = project, line
        kind = "server_url" if where and "://" in where else "space_id"
        self.where = {kind: where} if where else {}
        self.kept = Kept("trackio", where or str(trackio.utils.TRACKIO_DIR), project, line.key)
        self.place = f"project {project}; {where or f'trackio show --project {project}'}; {self.kept.path}"

    def sent(self) -> Points:
        """Return what the file of points remembers."""
        return self.kept.read()

    def send(self, points: Points) -> None:
        """Add a row for each round."""
        try:
            trackio.init(
                self.project, name=self.line.key, config=self.line.settings, resume="allow", embed=False,
                auto_log_gpu=False, auto_log_cpu=False, **self.where,
            )  # fmt: skip
            for step, numbers in by_step(points):
                trackio.log(numbers, step=step)
            trackio.finish()
        except (ValueError, ConnectionError, OSError) as error:
            raise PipelineError(f"--to trackio: {error}") from None
        self.kept.add(points)
