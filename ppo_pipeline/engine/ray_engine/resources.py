"""What a worker takes of a node, and whether the cluster has it."""

import os
from typing import NamedTuple

import ray
import torch

from ...errors import PipelineError
from ...observe.progress import result
from ...settings.sections import Compute


class Needs(NamedTuple):
    """CPUs (as many as threads) and GPUs of a worker."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")


def with_threads(compute: Compute) -> Compute:
    """Return the settings with as many threads as one process has: no number of workers may change a bit."""
    return compute.model_copy(update={"threads": compute.threads or torch.get_num_threads()})


def needs_of(compute: Compute, asked: int, workers: int, label: str, each: int = 1) -> Needs:
    """Return what a worker takes: `each` GPUs where the cluster has some and `compute.device` does not forbid it.

    asked: compute.threads as the settings have it; label: of the stage. Raises PipelineError for a device that the
    cluster has not, and where torch's own choice of threads, which one process takes, would have workers of one
    machine fight for its CPUs.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if compute.device == "mps":
        raise PipelineError("params.yaml: compute.device: mps has no workers; set compute.engine: local.")
    if compute.device == "cuda" and not gpus:
        raise PipelineError("params.yaml: compute.device: cuda: the Ray cluster has no GPU; `ray status` shows it.")
    if gpus and compute.device != "cpu":
        return Needs(asked or 1, each)
    threads, cpus = compute.threads, os.cpu_count() or 1
    if workers * threads > cpus and len(_alive()) == 1:
        if not asked:
            raise PipelineError(
                f"params.yaml: compute.threads: 0 is {threads} threads in each worker, as one process takes, so that "
                f"no number of workers changes a bit; {workers} workers would fight for {cpus} CPUs. Set "
                f"compute.threads: {max(1, cpus // workers)}, or compute.workers: {max(1, cpus // threads)}."
            )
        result(label, f"{workers} workers of {threads} threads share {cpus} CPUs; fewer would be as fast")
    return Needs(threads, 0)


def placeable(needs: Needs, workers: int, label: str) -> int:
    """Return how many of `workers` have a place now; print a line where some have not.

    Raises PipelineError where no node that is there has room for one.
    """
    places = _places(needs)
    if not places:
        raise PipelineError(
            f"compute.engine: ray: no node has the {needs} that a worker takes; `ray status` shows what there is. "
            "CPUs are as many as compute.threads."
        )
    if places < workers:
        result(label, f"the cluster has room for {places} of {workers} workers of {needs}; the others join later")
    return min(places, workers)


def _places(needs: Needs) -> int:
    """Return how many workers the cluster has room for."""
    places = 0.0
    for node in _alive():
        cpus, gpus = (node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
        found = cpus // max(needs.cpus, 1)
        places += min(found, gpus // needs.gpus) if needs.gpus else found
    return int(places)


def _alive() -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]


def require_all(needs: Needs, workers: int) -> None:
    """Raise PipelineError where the cluster has no room for all of them at once, as ranks of one work need it."""
    places = _places(needs)
    if places < workers:
        raise PipelineError(
            f"compute.workers: {workers}: the Ray cluster has room for {places} workers of {needs}, and `update` needs "
            "all of them at once; `ray status` shows what there is. Lower compute.workers (or PPO_PIPELINE_WORKERS)."
        )
