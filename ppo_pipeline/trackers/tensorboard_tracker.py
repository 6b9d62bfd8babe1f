"""TensorBoard: a folder of event files for each line of rounds. What is there is read from the files themselves."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary import Writer
from tensorboard.util.tensor_util import make_ndarray

from .lines import Line, Points
from .tracker import by_step


class TensorBoardTracker:
    """A Tracker: `where` is a folder, logs/tensorboard without one; `tensorboard --logdir` draws it."""

    def __init__(self, project: str, where: str | None, line: Line) -> None:
        self.folder = Path(where or "logs/tensorboard", project, line.key)
        self.place = f"{self.folder}; tensorboard --logdir {where or 'logs/tensorboard'}"

    def sent(self) -> Points:
        """Return the points in the files; of two with one place that of the later file."""
        if not self.folder.is_dir():
            return {}
        reader = EventAccumulator(str(self.folder), size_guidance={"tensors": 0}, purge_orphaned_data=False)
        reader.Reload()
        events = [(e.wall_time, tag, e) for tag in reader.Tags()["tensors"] for e in reader.Tensors(tag)]
        in_order = sorted(events, key=lambda each: each[:2])
        return {(tag, event.step): make_ndarray(event.tensor_proto).item() for _, tag, event in in_order}

    def send(self, points: Points) -> None:
        """Write one more file."""
        writer = Writer(str(self.folder))
        for step, numbers in by_step(points):
            for metric, number in numbers.items():
                writer.add_scalar(metric, number, step)
        writer.close()
