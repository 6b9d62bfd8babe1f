"""A Ray cluster of two nodes on this machine, for tests. Imported before anything that imports Ray."""

import os
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


# Fixtures, which a module gets by pytest.fixture(...)(function).


def running_cluster() -> Iterator[None]:
    """Keep a cluster while the tests of a module run."""
    with cluster_of_two():
        yield


def find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers find the modules of tests beside the project's."""
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests}")
