"""What logs/ says of a stage's run: all that the same bits depend on besides settings and inputs."""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from stage_runs import Stages

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.compute.native import library
from ppo_pipeline.settings.sections import Compute


def test_the_environment_is_recorded_beside_the_outputs(tmp_path: Path) -> None:
    project = Stages(tmp_path, lambda params: None)
    project.run("init")
    project.round("r001")
    for stage in ("rollout", "reference", "update", "evaluate"):
        record = json.loads((tmp_path / f"logs/r001/{stage}.json").read_text())
        assert (record["stage"], record["round"]) == (stage, "r001")
        assert (record["device"], record["dtype"]) == ("cpu", "float32")
        assert record["machine"]["threads"] == 1 == torch.get_num_threads()
        assert record["machine"]["kernels"] == library.in_use()
        assert record["versions"]["torch"] == version("torch") == torch.__version__
        assert record["versions"]["transformers"] == version("transformers")
        assert record["seconds"] > 0 and record["peak_memory_gb"] > 0
    light = json.loads((tmp_path / "logs/r001/advantage.json").read_text())
    assert "kernels" not in light["machine"]
    hashed = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(hashed) > 10
    assert not any(version("torch").encode() in path.read_bytes() for path in hashed if path.parent.name != "base")


def test_kernels_torch_loads_no_library_and_says_so(tmp_path: Path) -> None:
    project = Stages(tmp_path, lambda params: params["compute"].update(kernels="torch"))
    project.run("init")
    project.run("rollout", "r001")
    assert json.loads((tmp_path / "logs/r001/rollout.json").read_text())["machine"]["kernels"] == "torch"
    assert library.kernels() is None
    compute = {"device": "cpu", "dtype": "fp32", "threads": 1, "batch_invariant": False, "head": "auto"}
    assert "torch" in set_up(Compute(kernels="torch", **compute)).decides()
    assert ("torch" in set_up(Compute(kernels="auto", **compute)).decides()) is (library.in_use() == "torch")
