"""The cells of examples/look_at_a_run.ipynb run, from top to bottom, on a small project."""

import json
from pathlib import Path

import pytest
from conftest import lora_policy, policy_settings, save_tiny, tiny_model
from report_project import REPOSITORY, write_project

from ppo_pipeline.models.adapter import adapter_config, save_policy

NOTEBOOK = json.loads((REPOSITORY / "examples/look_at_a_run.ipynb").read_text(encoding="utf-8"))


def test_the_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = write_project(tmp_path, {"r001": "r000", "r002": "r001"}, 5)
    for name, score in (("r000", 0.1), ("r001", 0.3), ("r002", 0.4)):
        file = folder / f"metrics/stages/{name}/evaluate.json"
        file.parent.mkdir(parents=True)
        numbers = {"eval/scores": score, "eval/scores_se": 0.1}
        file.write_text(json.dumps(numbers | ({"objective/kl": score} if name != "r000" else {})))
    save_tiny(folder / "data/base")
    base, settings = tiny_model("llama"), policy_settings()
    policy = lora_policy(base, settings.target_modules)
    save_policy(policy, adapter_config(settings, "base", policy.layers, base), folder / "data/rounds/r002/policy")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["best"] == "r002"
    assert isinstance(names["answer"], str)


def test_its_outputs_have_no_path_of_the_machine_that_wrote_them() -> None:
    outputs = json.dumps([cell.get("outputs") for cell in NOTEBOOK["cells"]])
    assert outputs.count("execute_result") >= 3
    assert not any(text in outputs for text in ("/root", "/home", "/work", "/Users"))
