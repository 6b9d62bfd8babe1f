"""Ranks by Ray Train's TorchTrainer: a work on all of them at once, started again from its snapshots where one dies."""

import os
import re
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from ...errors import PipelineError
from ...observe.counter import Counter
from ...observe.progress import result
from ...resume.scratch import FOLDER
from ...settings.sections import Compute
from ..together import Together
from ..where import stall_seconds
from .desk import Desk, Word
from .nodes import identity_here, sign_on_disk
from .nodes import told as workers_told
from .rank import End, be_rank
from .resources import needs_of, require_all, with_threads
from .start import connected, worker_environment

MOST_FAILURES = 3  # the third one ends the stage
POLL_SECONDS = 0.5
BETWEEN = re.compile("gloo|nccl|distbackend|distnetwork", re.IGNORECASE)  # what ranks say that wait for a dead one
DIED = "WorkerHealthCheckFailedError"  # Ray Train's word for a rank whose process is gone
LOOKS = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"  # Ray Train's own default of 2 s would be waited for at each end


def train(
    compute: Compute, workers: int, work: Together, counter: Counter, label: str
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Do `work` on so many ranks; return what it returns on rank 0, and what the record says of them."""
    began, stall = time.perf_counter(), stall_seconds()
    fixed = with_threads(compute)
    os.environ.setdefault(LOOKS, str(POLL_SECONDS))
    store = Path(FOLDER, label.partition(" ")[2], "ray-train").absolute()  # a marker alone is written there
    with connected(workers * fixed.threads), sign_on_disk(FOLDER) as sign:
        needs = needs_of(fixed, compute.threads, workers, label)
        require_all(needs, workers)
        environment = worker_environment(fixed.threads)
        desk = ray.remote(num_cpus=0)(Desk).options(runtime_env={"env_vars": environment}).remote()
        trainer = TorchTrainer(
            partial(be_rank, str(Path.cwd()), fixed, sign, identity_here(sign), work, desk),
            torch_config=TorchConfig(timeout_s=max(1, int(stall))),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=bool(needs.gpus), resources_per_worker=_resources(needs),
            ),
            run_config=RunConfig(
                name="update", storage_path=str(store), callbacks=[_failures_told(desk)],
                failure_config=FailureConfig(
                    max_failures=MOST_FAILURES - 1, controller_failure_limit=max(1, int(stall // 60))
                ),
                worker_runtime_env={"env_vars": environment},
            ),
        )  # fmt: skip
        try:
            ready = _watched(_Fit(trainer), desk, counter, label, workers)
            end: End | None = ray.get(desk.ended.remote())
        finally:
            ray.kill(desk)
            shutil.rmtree(store, ignore_errors=True)
    if end is None:
        raise PipelineError(f"{label}: Ray Train ended without a result; the same command goes on from what is kept.")
    if end.error is not None:
        raise PipelineError(end.error)
    assert end.machine is not None
    told = workers_told(end.ranks[0], ready - began, [{"node": rank.node} for rank in end.ranks])
    return end.result, {**end.machine, **told}


class _Fit(threading.Thread):
    """TorchTrainer.fit beside the main thread: there it would take over Ctrl-C."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.trainer = trainer
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.trainer.fit()
        except Exception as error:
            self.error = error


def _watched(fit: _Fit, desk: Any, counter: Counter, label: str, workers: int) -> float:
    """Show what the ranks tell until they end; return when they were ready.

    Raises PipelineError where they died too often.
    """
    fit.start()
    ready, running, begun = 0.0, True, False
    while running:
        fit.join(POLL_SECONDS)
        running = fit.is_alive()
        word: Word = ray.get(desk.take.remote())
        if word.ranks and not ready:
            ready = time.perf_counter()
        if word.begun and not begun:
            begun = True
            counter.begin()
        _show(word, counter, label, workers)
    if fit.error is not None:
        raise _told(fit.error, label)
    return ready


def _show(word: Word, counter: Counter, label: str, workers: int) -> None:
    for failures in word.lost:
        rank = min(failures, key=lambda rank: (failures[rank] != DIED, rank))  # others fail for want of it
        where = f" on {word.ranks[rank].node}" if word.ranks else ""
        what = "died" if failures[rank] == DIED else f"failed ({failures[rank]})"
        result(label, f"worker {rank + 1} of {workers}{where} {what}; all start again from what is kept")
    for line in word.lines:
        click.echo(line)
    counter.skipped = max(counter.skipped, word.skipped)
    if word.done > counter.done or word.tokens > counter.tokens:
        counter.advance(word.done - counter.done, word.tokens - counter.tokens)
    for number, numbers in word.steps:
        counter.step(number, numbers)


def _resources(needs: Any) -> dict[str, float]:
    return {"CPU": needs.cpus} | ({"GPU": needs.gpus} if needs.gpus else {})


def _failures_told(desk: Any) -> UserCallback:
    """Return what tells the desk of each failure. It runs in Ray Train's controller, which need not find this code:
    a class within a function travels whole."""

    class Told(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            desk.lose.remote({rank: _word(error) for rank, error in worker_exceptions.items()})

    def _word(error: Exception) -> str:
        name = type(error).__name__
        return name if name == DIED else " ".join(str(error).split())[:200]

    return Told()


def _told(error: Exception, label: str) -> Exception:
    """Return what to raise for an error of Ray Train: a fault of the code as it is, with the worker's traceback."""
    failures = getattr(error, "worker_failures", {}).values()
    if failures and all(type(e).__name__ != DIED and not BETWEEN.search(str(e)) for e in failures):
        return error
    text = " ".join(str(error).split())[:300]
    return PipelineError(
        f"{label}: the workers failed {MOST_FAILURES} times. Where the system killed one for want of memory, take "
        f"fewer workers or smaller batches; what is done is kept. Ray says: {text}"
    )
