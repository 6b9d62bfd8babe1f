"""A work done together as `compute.engine` asks for it: by this process alone, or by ranks on Ray Train."""

from typing import Any

from ..observe.counter import Counter
from ..observe.progress import result
from ..settings.sections import Compute
from .together import Together
from .where import where


def do_together(compute: Compute, work: Together, counter: Counter, label: str) -> tuple[Any, dict[str, Any]]:
    """Do `work` on the machine that `compute` describes; return what it (on rank 0) returns, and what the record says.

    label: of the stage. Raises PipelineError for a device that is not there, for workers that would compute other
    bits, and where they die again and again.
    """
    place = where()
    if place.engine == "local":
        from ..compute.machine import set_up

        machine = set_up(compute)
        return work(machine, counter, False), machine.told()
    ranks = work.ranks(place.workers)
    if ranks < place.workers:
        result(label, f"{ranks} of {place.workers} workers have a part (update.gradient_groups)")
    from .ray_engine.start import prepare

    prepare()
    from .ray_engine.train import train

    return train(compute, ranks, work, counter, label)
