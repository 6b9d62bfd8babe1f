"""Processes that stay loaded and take turns at the same work, so that a machine whose speed changes slows all alike."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import IO, Any

from .measuring import ROOT, environment, peak_gb


class Standing:
    """A process that says on its stdout, as a line of JSON, that it is loaded, and then what each turn took.

    log: takes its stderr. load_seconds: from its start until it is loaded, imports included. Raises RuntimeError with
    the end of its output where it fails.
    """

    def __init__(self, command: list[str], log: IO[str]) -> None:
        self.command, self.log, self.usage = command, log, None
        started = time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(command[0]), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.told = self._answer()
        self.load_seconds = round(time.perf_counter() - started, 2)

    def turn(self, number: int) -> dict[str, Any]:
        """Return what the process says of a turn; number: seeds its random numbers."""
        assert self.process.stdin is not None
        print(number, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.end()
            self.log.seek(0)
            raise RuntimeError(f"{' '.join(self.command)} failed:\n{self.log.read()[-3000:]}")
        return dict(json.loads(line))

    def end(self) -> float:
        """Let the process end; return the peak of its memory in GB."""
        if self.usage is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            _, status, self.usage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
        return peak_gb(self.usage)


@contextmanager
def standing(command: list[str]) -> Iterator[Standing]:
    """Start a process; whatever happens, it is not left behind."""
    with tempfile.TemporaryFile("w+") as log:
        found = Standing(command, log)
        try:
            yield found
        finally:
            found.end()


def side_by_side(commands: dict[str, list[str]], turns: int) -> dict[str, dict[str, Any]]:
    """Load the processes one after the other, give each a turn to warm up, then `turns` rounds of a turn for each.

    Returns for each its turns, the median of useful tokens per second, load_seconds, warm_seconds and peak_gb. Raises
    RuntimeError where one fails, or has other prompts than the first.
    """
    with ExitStack() as stack:
        running = {name: stack.enter_context(standing(command)) for name, command in commands.items()}
        told = [each.told for each in running.values()]
        if any(each != told[0] for each in told):
            raise RuntimeError(f"the prompts differ: {dict(zip(running, told, strict=True))}")
        warm = {name: each.turn(0)["seconds"] for name, each in running.items()}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
        for number in range(1, turns + 1):
            for name, each in running.items():
                taken[name].append(each.turn(number))
        return {
            name: {
                "tokens_per_second": round(median(turn["tokens"] / turn["seconds"] for turn in taken[name]), 1),
                "load_seconds": each.load_seconds, "warm_seconds": warm[name], "peak_gb": each.end(),
                "turns": taken[name],
            }
            for name, each in running.items()
        }  # fmt: skip
