"""The command line: rounds, show, export."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import policy_settings, save_tiny, tiny_model

from ppo_pipeline.cli.main import main
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, save_trainer
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    head = COMMITTED.read_text().split("\nrounds:")[0]
    rounds = "\nrounds:\n  r001: {parent: r000}  # the first\n  r002: {parent: r001}\n\n# the end\n"
    Path("params.yaml").write_text(head + rounds)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def lines_added(before: str) -> list[str]:
    """Return the added lines; every old line must still be there, in order."""
    after = Path("params.yaml").read_text().splitlines()
    rest = iter(after)
    assert all(line in rest for line in before.splitlines()), "an old line is gone"
    return [line for line in after if line not in before.splitlines()]


def test_rounds_add_only_adds_lines() -> None:
    before = Path("params.yaml").read_text()
    run("rounds", "add", "2", "--set", "advantage.kl_coef=0.1", "--set", "update.value_clip_range=null")
    override = "advantage: {kl_coef: 0.1}, update: {value_clip_range: null}"
    assert lines_added(before) == [f"  r003: {{parent: r002, {override}}}", f"  r004: {{parent: r003, {override}}}"]
    params = load_params()
    assert params.lineage("r004") == ["r001", "r002", "r003", "r004"]
    assert params.of_round("r004").advantage.kl_coef == 0.1
    assert params.of_round("r004").update.value_clip_range is None
    assert "r004" in run("rounds", "list").output


def test_rounds_branch_and_remove() -> None:
    before = Path("params.yaml").read_text()
    run("rounds", "branch", "r001", "--name", "r002b", "--set", "seed=7")
    assert lines_added(before) == ["  r002b: {parent: r001, seed: 7}"]
    assert load_params().of_round("r002b").seed == 7
    run("rounds", "remove", "r002b")
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize(
    "rounds", ["rounds: {}", "rounds: {r001: {parent: r000}}", "rounds:\n    r001:\n        parent: r000"]
)
def test_other_ways_to_write_the_map(rounds: str) -> None:
    head = Path("params.yaml").read_text().split("\nrounds:")[0]
    Path("params.yaml").write_text(f"{head}\n{rounds}")
    run("rounds", "add", "2")
    assert len(load_params().rounds) == (2 if rounds == "rounds: {}" else 3)
    assert Path("params.yaml").read_text().startswith(head)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["branch", "r01", "--name", "x"], "no round 'r01'. Did you mean 'r001'?"),
        (["branch", "r001", "--name", "r002"], "there is a round 'r002' already"),
        (["branch", "r001", "--name", "x", "--set", "update.lrr=1"], "update.lrr: no such setting. Did you mean 'lr'?"),
        (["branch", "r001", "--name", "x", "--set", "update.lr"], "write it as section.setting=value"),
        (["remove", "r001"], "'r001' is the parent of r002"),
        (["remove", "r000"], "it is always there"),
        (["add", "0"], "0 is not in the range"),
    ],
)
def test_a_refused_change_leaves_the_file_as_it_was(arguments: list[str], message: str) -> None:
    before = Path("params.yaml").read_text()
    result = CliRunner().invoke(main, ["rounds", *arguments])
    assert result.exit_code != 0
    assert message in result.output
    assert Path("params.yaml").read_text() == before
    assert [p.name for p in Path().iterdir()] == ["params.yaml"]


def write_tables() -> Path:
    folder = Path("data/rounds/r001")
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    rollouts = {
        "sample_id": ["a", "b"], "prompt_id": ["p", "q"], "sample_index": [0, 0],
        "prompt_text": [chat.format("first?"), chat.format("second?")], "response_text": ["[red]x[/red]", "你好"],
        "prompt_ids": [[1], [2]], "response_ids": [[65, 66], [67]], "rollout_logprobs": [[-1.0, -2.0], [-3.0]],
        "kept_mass": [[1.0, 1.0], [1.0]], "finish_reason": ["stop", "length"],
    }  # fmt: skip
    ROLLOUTS.write(pa.table(rollouts), folder / "rollouts.parquet")
    REWARDS.write(
        pa.table({"sample_id": ["a", "b"], "score": [0.5, -0.25], "correct": [True, False], "rule": [0.5, -0.25]}),
        folder / "rewards.parquet",
    )
    lists = {"policy_logprobs": [[-1.0, -2.0], [-3.0]], "reference_logprobs": [[-1.5, -2.25], [-2.0]]}
    reference = {"sample_id": ["a", "b"], **lists, "values": [[0.1, 0.2], [0.3]], "bootstrap_value": [0.0, 0.0]}
    reference["entropy"] = [[1.1, 1.2], [1.3]]
    REFERENCE.write(pa.table(reference), folder / "reference.parquet")
    numbers = {n: [[0.11, 0.22], [0.33]] for n in ("token_rewards", "advantages", "returns")}
    numbers["correct"] = pa.nulls(2, pa.bool_())
    ADVANTAGES.write(pa.table({"sample_id": ["a", "b"], **numbers}), folder / "advantages.parquet")
    return folder


def test_show_joins_score_and_kl_and_prints_text_literally() -> None:
    output = run("show", str(write_tables() / "rollouts.parquet")).output
    for text in ("first?", "second?", "[red]x[/red]", "你好", "+0.500", "+0.750", "-1.000", "length"):
        assert text in output


def test_show_json_sorts_and_limits() -> None:
    path = str(write_tables() / "rollouts.parquet")
    rows = [json.loads(line) for line in run("show", path, "--json", "--sort", "score").output.splitlines()]
    assert [row["sample_id"] for row in rows] == ["b", "a"]
    assert rows[1]["kl"] == pytest.approx(0.75)
    assert len(run("show", path, "--json", "--limit", "1", "--sort", "kl", "--descending").output.splitlines()) == 1


def test_show_one_sample_token_by_token() -> None:
    output = run("show", str(write_tables() / "rollouts.parquet"), "--sample", "a").output
    for text in ("+0.5000", "+0.2500", "+0.2000", "+0.2200", "65", "66", "score: 0.5"):
        assert text in output


@pytest.mark.parametrize("name", ["rewards", "reference", "advantages"])
def test_show_prints_every_table(name: str) -> None:
    assert "2 of 2 rows" in run("show", str(write_tables() / f"{name}.parquet")).output


def test_show_names_what_is_not_there() -> None:
    path = str(write_tables() / "rollouts.parquet")
    assert "no column 'scor'. Did you mean 'score'" in run("show", path, "--sort", "scor", code=1).output
    assert "no sample_id 'c'" in run("show", path, "--sample", "c", code=1).output
    assert "not a readable Parquet file" in run("show", "params.yaml", code=1).output
    assert "no such file" in run("show", "nothing.parquet", code=1).output


def make_round() -> None:
    save_tiny(Path("data/base"))
    model = tiny_model("llama")
    settings = policy_settings()
    layers = add_lora(model, settings.target_modules, 4, 8, 0.0)
    init_lora(layers, 0)
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    policy = Policy(model, layers, ValueHead(32))
    save_policy(policy, adapter_config(settings, "base", layers, model), Path("data/rounds/r001/policy"))
    save_trainer(policy, TrainerState(), Path("data/rounds/r001/trainer"))


def test_export_is_the_policy_as_a_plain_model() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_round()
    run("export", "--round", "r001", "out")
    exported, policy = AutoModelForCausalLM.from_pretrained("out"), tiny_model("llama")
    attach_policy(policy, Path("data/rounds/r001/policy"))
    ids = torch.arange(20)[None] * 11 % 250
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, policy(ids).logits, atol=1e-4, rtol=1e-4)
        assert (exported(ids).logits - tiny_model("llama")(ids).logits).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained("out")("a")["input_ids"]
    assert "exists already" in run("export", "--round", "r001", "out", code=1).output
    run("export", "--round", "r001", "--overwrite", "out")


def test_chat_answers_beside_the_base() -> None:
    make_round()
    output = run("chat", "--round", "r001", "--prompt", "hello", "--max-new-tokens", "5").output
    assert "hello" in output
    assert "base" in output
    assert "no round 'r01'. Did you mean 'r001'?" in run("chat", "--round", "r01", "--prompt", "x", code=1).output
    shutil.rmtree("data/rounds/r001")
    assert "dvc repro update@r001" in run("export", "--round", "r001", "out2", code=1).output
