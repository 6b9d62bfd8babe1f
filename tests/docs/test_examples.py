"""What lies in examples/ runs, on a small project: the notebook's cells, and the task for lm-evaluation-harness."""

import json
import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import lora_policy, policy_settings, save_tiny, tiny_model
from report_project import REPOSITORY, TEXTS, write_project
from ruamel.yaml import YAML

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.tables.prompts import PROMPTS

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


def test_the_task_for_other_evaluations_has_the_prompts_as_the_model_saw_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_project(tmp_path, {"r001": "r000"}, 3))
    prompts = PROMPTS.read(Path("data/prompts.parquet"))
    expected = pa.array([f"right {name}" for name in prompts.column("prompt_id").to_pylist()])
    PROMPTS.write(prompts.append_column("expected", expected), Path("data/prompts.parquet"))
    monkeypatch.setattr(sys, "argv", ["heldout.py"])
    runpy.run_path(str(REPOSITORY / "examples/lm_eval/heldout.py"))
    rows = [json.loads(line) for line in Path("heldout.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [row["prompt"] for row in rows] == [f"<|user|>{text}<|end|><|assistant|>" for text, _ in TEXTS]
    assert [row["expected"] for row in rows] == [f"right h{k}" for k in range(len(TEXTS))]
    task = YAML(typ="safe").load(REPOSITORY / "examples/lm_eval/heldout.yaml")
    assert {f"{{{{ {name} }}}}" for name in rows[0]} == {task["doc_to_text"], task["doc_to_target"]}
    assert task["dataset_kwargs"]["data_files"] == "heldout.jsonl"
