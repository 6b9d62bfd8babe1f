"""Works for a pool that count, wait, fail or die; workers of Ray import this by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.observe.progress import result


class Told(PipelineError):
    """A PipelineError with an argument of its own, which plain pickling would trip over."""

    def __init__(self, text: str, more: str) -> None:
        super().__init__(f"{text} {more}")


@dataclass(frozen=True)
class Scripted:
    """Each task is a word that says what happens; `folder` has a line for each attempt at one."""

    folder: Path

    def open(self, machine: Any) -> "ScriptedWorker":
        result("scripted", "opened")
        return ScriptedWorker(self.folder)


class ScriptedWorker:
    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, "facts"

    def __call__(self, task: str, counter: Counter) -> tuple[str, int]:
        with (self.folder / "attempts").open("a") as file:
            file.write(f"{task}\n")
        what, _, rest = task.partition(" ")
        if what == "fail":
            raise Told("params.yaml: x: cannot be", rest)
        if what == "break":
            raise ValueError(rest)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die-once" and (self.folder / "attempts").read_text().count(task) == 1:
            counter.advance(1, 10)
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "wait":
            time.sleep(float(rest))
        counter.advance(2, 10)
        return task, torch.get_num_threads()
