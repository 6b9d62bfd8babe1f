"""`policy.start`: r000, the reference and all rounds start from what supervised training made of the base."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sft_project import sft_project
from stage_runs import ROUND
from transformers import AutoModelForCausalLM

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.sealing import index
from ppo_pipeline.project.sealing.older import refuse_parents_of_another_start
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.files import sha256_of

TRAINED = "data/sft/chat"


def test_policy_and_reference_are_the_trained_model(tmp_path: Path) -> None:
    project = sft_project(tmp_path, TRAINED)
    for stage, name in (("sft", "chat"), ("init", ""), *((stage, "r001") for stage in ROUND[:5])):
        project.run(stage, name)
    rows = pq.read_table(project.path("r001/rollouts.parquet")).to_pylist()
    scores = pq.read_table(project.path("r001/reference.parquet")).to_pylist()
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in (TRAINED, "data/base")]
    apart = 0.0
    for row, score in zip(rows, scores, strict=True):
        assert score["policy_logprobs"] == score["reference_logprobs"]
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
        start = len(row["prompt_ids"]) - 1
        with torch.no_grad():
            logits = [model(ids).logits[0, start:-1] / 0.7 for model in models]  # rollout.temperature
        trained, base = (x.log_softmax(-1).gather(1, ids[0, start + 1 :, None])[:, 0] for x in logits)
        torch.testing.assert_close(torch.tensor(score["reference_logprobs"]), trained, rtol=1e-4, atol=1e-4)
        apart = max(apart, (trained - base).abs().max().item())
    assert apart > 0.1
    config = json.loads(project.path("r001/policy/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TRAINED


def test_a_whole_policy_starts_as_the_trained_model(tmp_path: Path) -> None:
    project = sft_project(tmp_path, TRAINED, policy="full")
    project.run("sft", "chat")
    project.run("init")
    folders = [project.path("r000/policy"), tmp_path / TRAINED, tmp_path / "data/base"]
    first, trained, base = (sha256_of(folder / "model.safetensors") for folder in folders)
    assert first == trained != base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"start": "data/sft/chta"}}, r"policy\.start: data/sft/chta: no 'chta' in `sft`"),
        ({"policy": {"start": "model"}}, r"policy\.start: .*pattern"),
        ({"rounds": {"chat": {"parent": "r000"}}}, r"sft\.chat has a round's name"),
        ({"sft": {}}, r"policy\.start: data/sft/chat: no 'chat' in `sft`"),
    ],
)
def test_a_start_that_nothing_makes_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((PipelineError, AssertionError), match=message):
        sft_project(tmp_path, TRAINED, more=change)


def test_a_sealed_round_of_another_start_is_no_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sft_project(tmp_path, TRAINED, more={"rounds": {"r002": {"parent": "r000"}}})
    monkeypatch.chdir(tmp_path)
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("parent: r000", "parent: r001"))
    index.write_entries({"r001": {"parent": "r000"}})
    index.stages_file("r001").parent.mkdir(parents=True)

    def trained_from(start: str) -> None:
        text = f"stages:\n  update@r001:\n    deps:\n    - path: data/code/update.json\n    - path: {start}\n"
        index.stages_file("r001").write_text(text)

    trained_from("data/base")
    with pytest.raises(PipelineError, match=r"policy\.start: data/sft/chat, but r002 starts from the sealed r001"):
        refuse_parents_of_another_start(load_params())
    trained_from(TRAINED)
    refuse_parents_of_another_start(load_params())
