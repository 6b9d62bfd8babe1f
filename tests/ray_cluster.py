"""A Ray cluster of two nodes on this machine, for tests. Imported before anything that imports Ray."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ppo_pipeline.engine.ray_engine.start import prepare

os.environ["RAY_ADDRESS"] = "local"  # no test joins a cluster that runs on this machine
prepare()
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@contextmanager
def cluster_of_two(**second: Any) -> Iterator[Any]:
    """Yield (cluster, its second node); this process is connected to it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False},
    )
    node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20, **second)
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    cluster.wait_for_nodes()
    try:
        yield cluster, node
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_one_worker(monkeypatch: pytest.MonkeyPatch, how: Any, which: Any = lambda hand: True) -> list[int]:
    """Have `how(hand)` called once, at the moment when every worker is given its first task; which: of them."""
    from ppo_pipeline.engine.ray_engine.pool import RayPool

    give, killed = RayPool._give, []

    def give_and_kill(self: Any, waiting: Any, tasks: Any) -> None:
        all_there = all(hand.opened for hand in self.hands)  # else one alone may do all tasks before another is there
        give(self, waiting if killed or all_there else deque(), tasks)
        if killed:
            return
        busy = [hand for hand in self.hands if hand.did == "do" and hand.ref is not None and which(hand)]
        if busy:
            killed.append(busy[-1].pid)
            how(busy[-1])

    monkeypatch.setattr(RayPool, "_give", give_and_kill)
    return killed


# Fixtures, which a module gets by pytest.fixture(...)(function).


def running_cluster() -> Iterator[None]:
    """Keep a cluster while the tests of a module run."""
    with cluster_of_two():
        yield


def find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers find the modules of tests beside the project's."""
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests}")
