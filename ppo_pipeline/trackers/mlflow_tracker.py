"""MLflow: a run for each line of rounds, found again by a tag. What is there is asked of MLflow."""

import os
import time
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ..errors import PipelineError
from ..settings.files import told
from .lines import Line, Points

KEY = "ppo_pipeline.key"
PARAMS, METRICS, LONGEST = (
    100,
    1000,
    500,
)  # most params and metrics of one request; characters of a param, for all stores
LOCAL = "sqlite:///logs/mlflow.db"


class MlflowTracker:
    """A Tracker: `where` is a tracking URI; without one MLFLOW_TRACKING_URI, else a database in logs/."""

    def __init__(self, project: str, where: str | None, line: Line) -> None:
        self.uri = where or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL
        self.project, self.line = project, line
        self.place = f"{self.uri}, experiment {project}"
        try:
            self.client = MlflowClient(self.uri)
            self.run = self._found()
        except (MlflowException, ImportError) as error:
            raise PipelineError(f"--to mlflow: {self.uri} cannot be used: {_first_line(error)}") from None

    def _found(self) -> str | None:
        """Return the id of the line's run; None where there is none yet."""
        experiment = self.client.get_experiment_by_name(self.project)
        if experiment is None:
            return None
        runs = self.client.search_runs([experiment.experiment_id], f"tags.`{KEY}` = '{self.line.key}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def sent(self) -> Points:
        """Return the points that the run has; of several with one place the last one."""
        if self.run is None:
            return {}
        metrics = self.client.get_run(self.run).data.metrics
        points = [point for name in metrics for point in self.client.get_metric_history(self.run, name)]
        return {(p.key, p.step): p.value for p in sorted(points, key=lambda point: point.timestamp)}

    def send(self, points: Points) -> None:
        """Add them to the run, which is finished as far as it goes."""
        try:
            run = self.run = self.run or self._made()
            now = int(time.time() * 1000)
            metrics = [Metric(name, number, now, step) for (name, step), number in sorted(points.items())]
            for start in range(0, len(metrics), METRICS):
                self.client.log_batch(run, metrics=metrics[start : start + METRICS])
            self.client.set_terminated(run)
        except MlflowException as error:
            raise PipelineError(f"--to mlflow: {self.uri}: {_first_line(error)}; the same command goes on.") from None

    def _made(self) -> str:
        experiment = self.client.get_experiment_by_name(self.project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.project)
        run: str = self.client.create_run(number, tags={KEY: self.line.key}, run_name=self.line.name).info.run_id
        params = [Param(_name(name), told(value)[:LONGEST]) for name, value in self.line.settings.items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(run, params=params[start : start + PARAMS])
        return run


def _name(setting: str) -> str:
    """Return a setting's name as MLflow takes it: no brackets."""
    return setting.replace("[", ".").replace("]", "")


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0]
