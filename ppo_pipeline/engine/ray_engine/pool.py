"""A pool of Ray actors. The driver hands out the tasks, one to a worker at a time, and survives a worker's death.

Bare actors and not Ray Data: they start some seconds sooner (docs/cluster.md has the figures), and who died over which
task is known here. What a worker had begun goes back to the front of the queue; its work keeps snapshots on the shared
disk, so that another one goes on from there.
"""

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import click
import ray

from ...compute.machine import Machine
from ...errors import PipelineError
from ...observe.counter import Counter
from ...observe.progress import result
from ...resume.scratch import FOLDER
from ...settings.sections import Compute
from ..pool import Work
from ..where import stall_seconds
from .hand import Hand
from .nodes import Identity, identity_here, refuse_foreign, sign_on_disk
from .nodes import told as workers_told
from .resources import Needs, needs_of, placeable, with_threads
from .start import connected, worker_environment
from .worker import Answer, Counts

POLL_SECONDS = 0.5
JOIN_SECONDS = 60.0  # workers that have a place, and yet do not come, are waited for so long after the first one
MOST_DEATHS = 3  # over one task, or of one worker before its first


class WorkersMachine(Machine):
    """The machine of the workers, as they told it."""

    decided: tuple[str, ...] = ()

    def decides(self) -> tuple[object, ...]:
        """Return what of it decides how numbers are rounded."""
        return self.decided


class RayPool:
    """A Pool of `workers` actors. Those that find no place yet join when there is one."""

    machine: Machine

    def __init__(self, compute: Compute, workers: int, label: str, gpus: int = 1) -> None:
        self.label, self.stall = label, stall_seconds()
        self.compute = with_threads(compute)
        self.began = self.alive = time.perf_counter()
        self.stack = ExitStack()
        self.hands: list[Hand] = []
        self.first: Identity | None = None
        self.work: Work | None = None
        self.facts: Any = None
        self.printed: set[str] = set()
        self.deaths: Tally[object] = Tally()
        self.queue: deque[int] = deque()
        self.seen: dict[int, tuple[int, ...]] = {}  # counts of each task
        try:
            self.stack.enter_context(connected(workers * self.compute.threads))
            self.needs: Needs = needs_of(self.compute, compute.threads, workers, label, gpus)
            self.sign = self.stack.enter_context(sign_on_disk(FOLDER))
            self.driver = identity_here(self.sign)
            self.hands = [self._hire(number) for number in range(1, workers + 1)]
            self._gather(placeable(self.needs, workers, label))
        except BaseException:
            self.close()
            raise
        self.ready_seconds = time.perf_counter() - self.began

    def open(self, work: Work) -> Any:
        """Have the workers take up a work; return its facts once the first one has them."""
        self.work, self.facts = work, None
        for hand in self.hands:
            hand.opened = False
        while self.facts is None:
            self._give(deque(), ())
            for _ in self._answers(None):
                pass
        return self.facts

    def run(self, tasks: Sequence[Any], counter: Counter) -> Iterator[tuple[int, Any]]:
        """Yield the place of each task and its result, in the order in which they are done."""
        waiting, left = deque(range(len(tasks))), len(tasks)
        self.queue, self.seen = waiting, {}
        self.deaths.clear()
        started = time.perf_counter()
        while left:
            self._give(waiting, tasks)
            for place, answer in self._answers(counter):
                left -= 1
                yield place, answer.result
        for hand in self.hands:
            hand.wall_seconds += time.perf_counter() - started

    def _hire(self, number: int) -> Hand:
        return Hand(number, self.needs, self.compute, worker_environment(self.compute.threads), self.sign)

    def _gather(self, expected: int) -> None:
        """Wait for the workers that have a place, so that foreign nodes are refused before any work."""
        first = None
        while (known := sum(hand.known for hand in self.hands)) < expected:
            for _ in self._answers(None):
                pass
            if known and first is None:
                first = time.perf_counter()
            if first is not None and time.perf_counter() - first > JOIN_SECONDS:
                break

    def _give(self, waiting: deque[int], tasks: Sequence[Any]) -> None:
        for hand in self.hands:
            if hand.known and hand.ref is None and not hand.opened and self.work is not None:
                hand.send("open", self.work, of=self.work)
            elif hand.opened and hand.ref is None and waiting:
                place = waiting.popleft()
                hand.give(place, tasks[place], of=self.queue)

    def _answers(self, counter: Counter | None) -> Iterator[tuple[int, Answer]]:
        """Wait a little; take in what the workers say; yield the tasks that are done."""
        refs = {ref: hand for hand in self.hands for ref in (hand.ref, hand.watch) if ref is not None}
        ready, _ = ray.wait([*refs], num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait([*refs], timeout=POLL_SECONDS)
        for ref in ready:
            hand = refs[ref]
            if ref == hand.watch:
                self._count(hand, hand.watched(), counter)
                continue
            if ref != hand.ref:  # counts that were there together with the answer, which says more
                continue
            try:
                answer = hand.take()
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except ray.exceptions.RayError as error:
                self._lost(hand, error)
                continue
            self.alive = time.perf_counter()
            self._print(answer.printed)
            if hand.did == "identity":
                self._welcome(hand, *answer.result)
            elif hand.of is self.work:
                hand.opened, self.facts = True, answer.result
            elif hand.of is self.queue:  # else it is the answer to a work or run that is given up
                self._count(hand, answer.counts, counter)
                yield hand.place, answer
        for hand in self.hands:
            hand.look()
        if time.perf_counter() - self.alive > self.stall:
            raise PipelineError(
                f"{self.label}: no worker has done anything for {self.stall:.0f} s; `ray status` shows what they wait "
                "for. What is done is kept, the same command goes on from there. PPO_PIPELINE_STALL_SECONDS sets the "
                "time."
            )

    def _welcome(self, hand: Hand, identity: Identity, machine: tuple[Any, Any]) -> None:
        if self.first is None:
            self.first = identity
            found = WorkersMachine(*machine)
            found.decided = identity.decides
            self.machine = found
        refuse_foreign(identity, self.driver, self.first)
        hand.known, hand.node, hand.pid = True, identity.node, identity.pid
        hand.start_seconds = time.perf_counter() - hand.hired

    def _count(self, hand: Hand, counts: Counts | None, counter: Counter | None) -> None:
        """Count what a task has come to beyond what was known of it, be it by another worker before."""
        if counts is None or counter is None or hand.of is not self.queue:
            return
        before = self.seen.get(hand.place, (0, 0, 0))
        done, skipped, tokens = (max(0, now - then) for now, then in zip(counts[1:], before, strict=True))
        if done or tokens:
            self.alive = time.perf_counter()
            self.seen[hand.place] = tuple(max(pair) for pair in zip(counts[1:], before, strict=True))
            hand.tokens += tokens
            counter.skipped += min(skipped, done)
            counter.advance(done, tokens)

    def _lost(self, hand: Hand, error: Exception) -> None:
        """Put back what a dead worker was doing, and hire another one in its place."""
        at_task = hand.of is self.queue
        over = hand.place if at_task else f"worker {hand.number}"
        self.deaths[over] += 1
        what = "died"
        if at_task:
            self.queue.appendleft(hand.place)
            what = f"died over task {hand.place + 1}, which starts again from what it kept"
        where = f" on {hand.node}" if hand.node else ""
        replacement = self._hire(hand.number)
        replacement.take_over(hand)
        self.hands[self.hands.index(hand)] = replacement
        if self.deaths[over] >= MOST_DEATHS:
            raise PipelineError(
                f"{self.label}: worker {hand.number}{where} {what}: {MOST_DEATHS} deaths are too many. Where the "
                "system killed it for want of memory, take fewer workers or smaller batches. Ray says: "
                f"{_short(error)}"
            )
        result(self.label, f"worker {hand.number}{where} {what}")
        self.alive = time.perf_counter()

    def _print(self, text: str) -> None:
        """Print what a worker said; each line once, since all of them load the same models."""
        for line in text.splitlines():
            if line not in self.printed:
                self.printed.add(line)
                click.echo(line)

    def told(self) -> dict[str, Any]:
        """Return the workers' machine, tokens by second and idle time, and how long Ray took to start."""
        assert self.first is not None
        return workers_told(self.first, self.ready_seconds, [hand.told() for hand in self.hands])

    def close(self) -> None:
        """End the workers, and Ray where it was started for them."""
        for hand in self.hands:
            hand.dismiss()
        self.hands = []
        self.stack.close()


def _cause(error: Any) -> BaseException:
    """Return what a worker raised: a PipelineError as it is, anything else with the worker's traceback beside it."""
    cause: BaseException = error.cause if error.cause is not None else error
    if not isinstance(cause, PipelineError):
        cause.add_note(f"in a worker of Ray: {error}")
    return cause


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
