"""The driver's side of one worker: its actor, what it is doing, and how much it has done."""

import time
from pathlib import Path
from typing import Any

import ray

from ...settings.sections import Compute
from .resources import Needs
from .worker import Answer, Counts, PoolWorker

LOOK_SECONDS = 0.5
Actor = ray.remote(concurrency_groups={"watch": 1})(PoolWorker)


class Hand:
    """A worker, hired at once; `identity` is the first that it is asked for.

    known: whether it has told who it is. opened: whether it holds the work at hand. did: what it was last asked for:
    identity, open or do; place: of the task.
    """

    def __init__(self, number: int, needs: Needs, compute: Compute, environment: dict[str, str], sign: Path) -> None:
        self.number = number
        self.actor = Actor.options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, runtime_env={"env_vars": environment}, max_restarts=0,
        ).remote(str(Path.cwd()), compute)  # fmt: skip
        self.node, self.pid, self.known, self.opened, self.place = "", 0, False, False, -1
        self.ref: Any = None
        self.watch: Any = None
        self.did = ""
        self.of: object = None
        self.hired = self.sent = self.looked = time.perf_counter()
        self.start_seconds = self.busy_seconds = self.wall_seconds = 0.0
        self.tasks = self.tokens = self.turn = 0
        self.send("identity", sign)

    def send(self, what: str, *arguments: Any, of: object = None) -> None:
        """Ask for something; the answer comes to `ref`. of: the work or the run that it belongs to."""
        self.did, self.of, self.sent = what, of, time.perf_counter()
        self.ref = getattr(self.actor, what).remote(*arguments)

    def give(self, place: int, task: Any, of: object) -> None:
        """Ask for a task to be done; place: of it among those of the run."""
        self.place, self.turn = place, self.turn + 1
        self.send("do", task, self.turn, of=of)

    def take(self) -> Answer:
        """Return the answer that is there; raise what Ray raises."""
        ref, self.ref, self.watch = self.ref, None, None
        answer: Answer = ray.get(ref)
        if self.did == "do":
            self.tasks += 1
            self.busy_seconds += time.perf_counter() - self.sent
        return answer

    def look(self) -> None:
        """Ask for its counts, now and then while it does a task; the answer comes to `watch`."""
        at_work = self.did == "do" and self.ref is not None
        if at_work and self.watch is None and time.perf_counter() - self.looked > LOOK_SECONDS:
            self.watch, self.looked = self.actor.counts.remote(), time.perf_counter()

    def watched(self) -> Counts | None:
        """Return the counts that are there; None where they are of the task before, or the worker is dead."""
        watch, self.watch = self.watch, None
        try:
            counts: Counts = ray.get(watch)
        except ray.exceptions.RayError:
            return None
        return counts if counts.turn == self.turn else None

    def take_over(self, dead: "Hand") -> None:
        """Go on with the counts of the worker in whose place this one is."""
        self.tasks, self.tokens = dead.tasks, dead.tokens
        self.busy_seconds, self.wall_seconds = dead.busy_seconds, dead.wall_seconds

    def told(self) -> dict[str, Any]:
        """Return what the stage's record says of it."""
        return {
            "node": self.node,
            "start_seconds": round(self.start_seconds, 1),
            "tasks": self.tasks,
            "tokens_per_second": round(self.tokens / self.busy_seconds, 1) if self.busy_seconds else 0.0,
            "busy_seconds": round(self.busy_seconds, 1),
            "idle_seconds": round(max(0.0, self.wall_seconds - self.busy_seconds), 1),
        }

    def dismiss(self) -> None:
        """End the worker's process."""
        ray.kill(self.actor)
