"""The pool that `compute.engine` asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..settings.sections import Compute
from .pool import Pool
from .where import where


@contextmanager
def open_pool(compute: Compute, label: str, gpus: int = 1) -> Iterator[Pool]:
    """Yield the pool that `compute.engine` asks for, on the machine that `compute` describes; label: of the stage.
    gpus: of a worker, where there are some.

    Raises PipelineError for a device that is not there, and for workers that would compute other bits.
    """
    place = where()
    if place.engine == "local":
        from .local import LocalPool

        pool: Pool = LocalPool(compute)
    else:
        from .ray_engine.start import prepare

        prepare()
        from .ray_engine.pool import RayPool

        pool = RayPool(compute, place.workers, label, gpus)
    try:
        yield pool
    finally:
        pool.close()
