"""`ppo-pipeline card`, `push`, `export --adapter`: the card says what the tables say, the files load elsewhere."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from fake_hub import FakeHub, hub  # noqa: F401
from huggingface_hub import ModelCard
from test_cli_chat import edit
from test_cli_models import BASE, POLICY, files, project, run  # noqa: F401

from ppo_pipeline.models.adapter import attach_policy
from ppo_pipeline.report.card.facts import for_others, settings_lines
from ppo_pipeline.report.card.heldout import fenced
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.evaluation import EVALUATION

SCORES = {"r000": [0.0, 0.5, 0.1], "r001": [1.0, 0.5, 0.6]}
HOSTILE = "```\n---\n# title {{ 7 * 7 }}\x1b[2J"


@pytest.fixture(autouse=True)
def evaluated(project: None) -> None:  # noqa: F811
    """Held-out answers to three prompts, of the untrained policy and of a round."""
    tokenizer = tiny_tokenizer()
    for name, scores in SCORES.items():
        answers = [f"{name} said {k}" for k in range(3)] if name == "r000" else [HOSTILE, "b", "c"]
        rows = {
            "prompt_id": ["p", "q", "r"], "prompt_text": [f"<|user|>ask {k}<|end|>" for k in range(3)],
            "response_text": answers, "finish_reason": ["stop"] * 3, "score": scores,
            "response_ids": pa.array([tokenizer(text)["input_ids"] for text in answers], pa.list_(pa.int32())),
            "correct": [score > 0.55 for score in scores], "exact": scores,
        }  # fmt: skip
        EVALUATION.write(pa.table(rows), Path(f"data/rounds/{name}/eval.parquet"))
        mean = sum(scores) / 3
        write_json(Path(f"metrics/stages/{name}/evaluate.json"), {"eval/scores": mean, "eval/scores_se": 0.25})
    write_json(Path("metrics/stages/r001/rollout.json"), {"objective/kl": 0.125})


def of_hub(model: str = "owner/tiny") -> None:
    edit("model: smollm2-135m-instruct", f"model: {model}")
    edit("revision:", "revision: v2 #")


def test_a_card_says_what_the_tables_say() -> None:
    assert "model-card/README.md" in run("card", "--round", "best").output
    text = Path("model-card/README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    # Means 0.2 and 0.7; the changes 1, 0, 0.5 have mean 0.5, variance 0.25: error 0.5 / sqrt(3).
    error = math.sqrt(((1 - 0.7) ** 2 + (0.5 - 0.7) ** 2 + (0.6 - 0.7) ** 2) / 2 / 3)
    assert ["mean reward", "0.200", f"0.700 +- {error:.3f}", f"+0.500 +- {0.5 / math.sqrt(3):.3f}"] in rows
    assert ["right answers", "0.000", "0.667 +- 0.333", "+0.667 +- 0.333"] in rows
    assert ["r000", "", "0.200", "0.250"] in rows and ["r001", "0.125", "0.700", "0.250"] in rows
    assert "advantage.kl_coef: " in text and "dvc repro update@r001" in text
    assert "r000 said 0" in text and "ask 1" in text
    assert str(Path.cwd()) not in text, "a path of this machine"


def test_its_metadata_is_what_a_hub_reads() -> None:
    of_hub()
    run("card", "--round", "r001", "--license", "mit", "--repo", "me/short")
    card = ModelCard.load("model-card/README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["license"], data["library_name"]) == ("owner/tiny", "mit", "transformers")
    assert card.data.model_name == "short" and 'from_pretrained("me/short")' in card.text
    found = {each.metric_type: each.metric_value for each in card.data.eval_results or []}
    assert found == {"reward": 0.7, "accuracy": 0.6667}


def test_a_card_of_the_average_has_its_own_numbers_and_no_answers_of_the_round() -> None:
    shutil.copytree(POLICY, POLICY.with_name("average"))
    kept = {"eval/scores": 0.7, "eval_average/scores": 0.625, "eval_average/scores_se": 0.125}
    write_json(Path("metrics/stages/r001/evaluate.json"), kept)
    run("card", "--round", "r001", "--average")
    text = Path("model-card/README.md").read_text()
    assert "| mean reward | 0.200 | 0.625 +- 0.125 |  |" in text and "r000 said 0" not in text
    [found] = ModelCard.load("model-card/README.md").data.eval_results or []
    assert found.metric_value == 0.625


def test_an_answer_cannot_end_its_block_nor_act_on_a_terminal() -> None:
    run("card", "--round", "r001")
    text = Path("model-card/README.md").read_text()
    assert "````text\n```\n---\n# title {{ 7 * 7 }}\\x1b[2J\n````" in text
    assert "\x1b" not in text
    assert fenced("a").splitlines() == ["```text", "a", "```"]


def test_a_card_tells_no_address_of_a_service_and_no_folder_of_this_machine() -> None:
    name = "smollm2-135m-instruct"
    edit(f"model: {name}", "model: /home/someone/secret/short")
    edit("sources: {}", "sources: {base: /home/someone/secret/short}")
    run("card", "--round", "r001", "--repo", "me/short")
    text = Path("model-card/README.md").read_text()
    assert "base.model: .../short" in text and "The model `short`" in text and "someone" not in text
    assert "base_model:" not in text
    assert for_others("reward.components[0].url", "http://10.0.0.1/score") == "(not shown)"
    assert for_others("prompts.source", "data/prompts/x.jsonl") == "data/prompts/x.jsonl"


def test_settings_are_those_that_the_round_ran_with_where_dvc_lock_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {"seed": 7, "chat_template": "auto", "advantage.kl_coef": 0.75, "reward.components[0].weight": 2.5}
    monkeypatch.setattr("ppo_pipeline.report.card.facts.settings_of", lambda *_: ran)
    lines, as_run = settings_lines(load_params(), "r001")
    assert as_run and {"seed: 7", "advantage.kl_coef: 0.75", "policy.tuning: lora"} <= set(lines)
    assert [line for line in lines if line.startswith("reward.")] == ["reward.components[0].weight: 2.5"]
    assert "chat_template: auto" not in lines and "prompts.chat_template: auto" in lines
    monkeypatch.setattr("ppo_pipeline.report.card.facts.settings_of", lambda *_: None)
    lines, as_run = settings_lines(load_params(), "r001")
    assert not as_run and "seed: 0" in lines and "advantage.kl_coef: 0.75" not in lines


def test_a_card_that_is_there_is_kept() -> None:
    Path("README.md").write_text("mine")
    assert "exists already" in run("card", "--round", "r001", ".", code=1).output
    assert Path("README.md").read_text() == "mine"
    run("card", "--round", "r001", "--overwrite", ".")
    assert "mine" not in Path("README.md").read_text()


def test_an_exported_adapter_names_its_base_brings_the_tokenizer_and_leaves_the_round_as_it_was() -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer

    of_hub()
    before = files()
    assert (
        "AutoPeftModelForCausalLM.from_pretrained('out')" in run("export", "--adapter", "--round", "r001", "out").output
    )
    assert {name: data for name, data in files().items() if not name.startswith("out/")} == before
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "v2")
    assert AutoTokenizer.from_pretrained("out").chat_template == tiny_tokenizer().chat_template
    loaded, policy = PeftModel.from_pretrained(tiny_model("llama"), "out"), tiny_model("llama")
    attach_policy(policy, POLICY)
    ids = torch.arange(20)[None] * 11 % 250
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, policy(ids).logits, atol=1e-4, rtol=1e-4)
    run("card", "--round", "r001", "out")
    assert ModelCard.load("out/README.md").data.library_name == "peft"
    run("export", "--adapter", "--round", "r001", "--overwrite", "out")


def test_an_adapter_of_a_model_that_is_on_no_hub_keeps_its_name_and_is_not_uploaded(hub: FakeHub) -> None:  # noqa: F811
    output = run("export", "--adapter", "--round", "r001", "out").output
    assert "adapter of the model in data/base" in output
    assert json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert "which is no hub's model" in run("push", "--adapter", "--round", "r001", "me/short", code=1).output
    assert not hub.repositories


def test_a_policy_that_is_a_whole_model_has_no_adapter_to_export() -> None:
    (POLICY / "adapter_config.json").rename(POLICY / "config.json")
    assert "policy.tuning is full" in run("export", "--adapter", "--round", "r001", "out", code=1).output
    assert not Path("out").exists()


def test_push_uploads_the_model_with_its_card(hub: FakeHub, tmp_path: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM

    before = files()
    output = run("push", "--round", "r001", "--private", "me/short").output
    assert f"{hub.url}/me/short/commit/" in output
    [made] = hub.repositories
    assert (made["organization"], made["name"], made["visibility"]) == ("me", "short", "private")
    found = hub.files["me/short"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(found)
    assert set(hub.cards) == {found["README.md"].decode()}
    for name, data in found.items():
        (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(data)
    loaded, policy = AutoModelForCausalLM.from_pretrained(tmp_path / "there"), tiny_model("llama")
    attach_policy(policy, POLICY)
    ids = torch.arange(20)[None] * 11 % 250
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, policy(ids).logits, atol=1e-4, rtol=1e-4)
    assert {n: d for n, d in files().items() if not n.startswith("there/")} == before


def test_push_uploads_an_adapter_of_a_hub_model(hub: FakeHub) -> None:  # noqa: F811
    of_hub()
    run("push", "--adapter", "--round", "r001", "me/short")
    found = hub.files["me/short"]
    assert found["adapter_model.safetensors"] == (POLICY / "adapter_model.safetensors").read_bytes()
    assert not [name for name in found if name.startswith(("model", "config"))]
    assert b"AutoPeftModelForCausalLM" in found["README.md"]


@pytest.mark.parametrize(
    ("change", "repo", "message"),
    [
        (("HF_TOKEN", "hf_of_another"), "me/short", "`hf auth login` or HF_TOKEN"),
        (None, "me/short/longer", "me/short/longer"),
        ("offline", "me/short", "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_anything_is_merged(
    hub: FakeHub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    repo: str,
    message: str,
) -> None:
    monkeypatch.setattr("ppo_pipeline.project.published.merged_model", None)
    if change == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif change:
        monkeypatch.setenv(*change)
    assert message in " ".join(run("push", "--round", "r001", repo, code=1).output.split())
    assert not hub.files
