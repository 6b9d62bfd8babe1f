"""A rank's process under Ray Train: it does its part of a work, and tells the driver of it."""

import os
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import torch.distributed as dist

from ...compute.machine import Machine, set_up
from ...errors import PipelineError
from ...observe.counter import Counter
from ...settings.sections import Compute
from ..together import Together
from .desk import Lines, ToldCounter
from .nodes import Identity, identity_here, refuse_foreign


class End(NamedTuple):
    """What the ranks came to: a result, or the message of a PipelineError that all of them raised.

    machine: what the record says of the device. ranks: who they were.
    """

    result: Any = None
    error: str | None = None
    machine: dict[str, str] | None = None
    ranks: tuple[Identity, ...] = ()


def be_rank(root: str, compute: Compute, sign: Path, driver: Identity, work: Together, desk: Any) -> None:
    """Do this rank's part of `work`; rank 0 tells the `desk` what came of it.

    A PipelineError is told as data: Ray Train would start the ranks again and again.
    """
    os.chdir(root)
    first = ray.train.get_context().get_world_rank() == 0
    counter = ToldCounter(desk) if first else Counter()
    with ExitStack() as stack:
        if first:
            lines = Lines(desk)
            stack.enter_context(redirect_stdout(lines))
            stack.enter_context(redirect_stderr(lines))
        try:
            machine, ranks = _on_one_kind_of_machine(compute, sign, driver)
            if first:
                desk.meet.remote(ranks)
            end = End(work(machine, counter, True), None, machine.told(), ranks)
        except PipelineError as error:
            end = End(error=error.message)
    if first:
        ray.get(desk.finish.remote(end))


def _on_one_kind_of_machine(compute: Compute, sign: Path, driver: Identity) -> tuple[Machine, tuple[Identity, ...]]:
    """Set this process up; return its machine and who all ranks are.

    Raises PipelineError, on all ranks, where one cannot be set up or would compute other bits.
    """
    machine: Machine | None = None
    try:
        machine = set_up(compute)
        here: Identity | str = identity_here(sign, machine)
    except PipelineError as error:
        here = error.message
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, here)
    for one in found:
        if isinstance(one, str):
            raise PipelineError(one)
        refuse_foreign(one, driver, found[0])
    assert machine is not None
    return machine, tuple(found)
