"""The real dvc over two rounds in which the whole model is trained, with tied and untied embeddings."""

import json
from pathlib import Path

import pytest
import torch
from dvc_project import Project
from transformers import AutoModelForCausalLM, AutoTokenizer

# rare: test_presets_pipeline.py has the notebook's full tuning by DVC, tests/training/test_full_tuning.py the rest.
pytestmark = [pytest.mark.slow, pytest.mark.rare]


@pytest.mark.parametrize(("tied", "critic"), [(True, "shared"), (False, "separate")])
def test_two_rounds(tied: bool, critic: str, tmp_path: Path) -> None:
    project = Project(tmp_path, tied, tuning="full", critic=critic)
    assert {"init", "update@r001", "update@r002", "evaluate@r002", "summary"} <= project.repro()
    assert project.repro() == set()
    hashes = project.hashes()
    ids = torch.arange(20)[None] * 11 % 250
    seen = []
    for name in ("r000", "r001", "r002"):
        folder = tmp_path / "data/rounds" / name
        model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype="auto").eval()
        same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert same == tied == model.config.tie_word_embeddings
        assert AutoTokenizer.from_pretrained(folder / "policy")("a")["input_ids"]
        assert (folder / "trainer/critic.safetensors").is_file() == (critic == "separate")
        with torch.no_grad():
            seen.append(model(ids).logits)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(base(ids).logits, seen[0])
    assert (seen[0] - seen[1]).abs().max() > 1e-4 and (seen[1] - seen[2]).abs().max() > 1e-4
    for name in ("r001", "r002"):
        metrics = json.loads((tmp_path / f"metrics/rounds/{name}.json").read_text())
        assert metrics["val/ratio_first_max_deviation"] < 1e-5
        assert (metrics["objective/kl"] == 0.0) == (name == "r001")
    project.run("dvc", "repro", "--force", "--single-item", "update@r002")
    assert project.hashes() == hashes, "the same update gives other bytes"
