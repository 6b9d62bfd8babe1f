"""Many requests in shards, each decoded by one worker of a pool: the responses depend on the shards' size alone."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors.numpy import load_file, save_file

from ..compute.machine import Machine
from ..engine.pool import Pool
from ..errors import PipelineError
from ..models.loading import load_tokenizer
from ..observe.counter import Counter
from ..observe.progress import result
from ..resume.snapshots import Snapshots
from ..storage.files import atomic_file
from .generate import Model, Sampling, open_engine
from .request import Request
from .response import Response, joined, parted


@dataclass(frozen=True)
class SampleWork:
    """Sampling from the policy in a folder, for a pool (engine/pool.py); policy: as in Model."""

    base: Path
    policy: Path | None
    sampling: Sampling
    engine: str = "own"

    def open(self, machine: Machine) -> "Sampler":
        """Load the policy into the engine."""
        return Sampler(self, machine)


class Shard(NamedTuple):
    """Requests that are decoded together. folder, label: of the snapshots that are made meanwhile."""

    requests: list[Request]
    folder: Path
    label: str


class Sampler:
    """A Worker. facts: the tokens that end a response."""

    def __init__(self, work: SampleWork, machine: Machine) -> None:
        tokenizer = load_tokenizer(work.base)
        self.engine = open_engine(Model(work.base, tokenizer, work.policy, *machine), work.sampling, work.engine)
        self.facts = self.engine.stop_ids

    def __call__(self, task: Shard, counter: Counter) -> list[Response]:
        """Return the response to each request of the shard."""
        return self.engine.generate(task.requests, counter, Snapshots(task.folder, task.label))


def generate_in_shards(
    pool: Pool, requests: list[Request], size: int, counter: Counter, snapshots: Snapshots
) -> list[Response]:
    """Return the response to each request, in their order; the pool has a SampleWork open.

    size: requests of a shard; 0: all in one. snapshots: of this work; a shard that is done is kept there, too.
    The shard with the most prompt tokens begins first, since the last one to end sets the time.
    """
    size = size or max(1, len(requests))
    parts = [requests[start : start + size] for start in range(0, len(requests), size)]
    kept = _Kept(snapshots, len(parts)) if len(parts) > 1 else None
    found = dict(kept.read(parts)) if kept else {}
    if found:
        counter.skip(sum(map(len, found.values())))
        result(snapshots.label, f"goes on from a snapshot, {len(found)} of {len(parts)} shards done")
    left = sorted((n for n in range(len(parts)) if n not in found), key=lambda n: -_prompt_tokens(parts[n]))
    tasks = [Shard(parts[n], kept.inside(n) if kept else snapshots.folder, snapshots.label) for n in left]
    for place, responses in pool.run(tasks, counter):
        found[left[place]] = responses
        if kept:
            kept.write(left[place], responses)
    return [response for number in range(len(parts)) for response in found[number]]


def _prompt_tokens(requests: list[Request]) -> int:
    return sum(len(request.prompt_ids) for request in requests)


class _Kept:
    """Shards that are done, a file each; unlike a snapshot each is kept at once, so that none is decoded twice."""

    def __init__(self, snapshots: Snapshots, count: int) -> None:
        self.folder, self.label = snapshots.folder, snapshots.label
        self.width = len(str(count - 1))

    def inside(self, number: int) -> Path:
        """Return the folder for snapshots of a shard that is not done."""
        return self.folder / f"shard-{number:0{self.width}d}"

    def write(self, number: int, responses: list[Response]) -> None:
        """Keep a shard; where there is no room for it the stage goes on without."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._file(number)) as partial:
                save_file(joined(responses), partial)
            shutil.rmtree(self.inside(number), ignore_errors=True)
        except OSError as error:
            result(self.label, f"shard {number + 1} is not kept: {error}")

    def read(self, parts: list[list[Request]]) -> Iterator[tuple[int, list[Response]]]:
        """Yield the shards that are kept, by number; one that is damaged is removed."""
        for number, requests in enumerate(parts):
            if self._file(number).is_file():
                try:
                    responses = parted(load_file(self._file(number)))
                    if len(responses) != len(requests):
                        raise ValueError("it is of other requests")
                    yield number, responses
                except (OSError, ValueError, KeyError, PipelineError) as error:
                    result(self.label, f"{self._file(number)} is damaged, decoding it again: {error}")
                    self._file(number).unlink()

    def _file(self, number: int) -> Path:
        return self.folder / f"done-{number:0{self.width}d}.safetensors"
