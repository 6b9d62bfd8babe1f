"""`ppo-pipeline params upgrade`: older settings become today's, and nothing else in the file changes."""

from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from ppo_pipeline.cli.main import main
from ppo_pipeline.project.new_project.derived import project_dvc_yaml
from ppo_pipeline.project.params_upgrade import upgraded
from ppo_pipeline.settings.as_before import NO_VALUE, as_yaml, value_before
from ppo_pipeline.settings.params import Params, load_params
from ppo_pipeline.settings.reward_sections import component_types

ROOT = Path(__file__).resolve().parents[2]
OLDEST = Path(__file__).with_name("oldest_params.yaml")  # of the first version, with components and rounds of each kind
COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def upgrade(text: str, code: int = 0) -> tuple[str, str]:
    """Run the command on a file with this text; return the new text and what was said."""
    Path("params.yaml").write_bytes(text.encode())
    result = CliRunner().invoke(main, ["params", "upgrade"])
    assert result.exit_code == code, result.output
    return Path("params.yaml").read_bytes().decode(), result.output


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_oldest_file_becomes_one_of_today_with_every_line_of_its_own() -> None:
    old = OLDEST.read_text(encoding="utf-8")
    new, said = upgrade(old)
    gone = {line[2:].strip() for line in ndiff(old.splitlines(), new.splitlines()) if line.startswith("- ")}
    assert gone == {
        "bootstrap_truncated: true", "whiten_advantages: true", "missing_end_penalty: 1.0",
        next(line.strip() for line in old.splitlines() if "{name: brevity" in line),  # in one line: it is longer now
        next(line.strip() for line in old.splitlines() if "{name: x" in line),
        "rollout_correction: 2.0  # of the sampler", "r002: {parent: r001, advantage: {bootstrap_truncated: false}}",
    }  # fmt: skip
    params = load_params()
    assert params.advantage.bootstrap == "truncated" and params.of_round("r002").advantage.bootstrap == "none"
    assert params.advantage.whiten_advantages == "round" and params.advantage.missing_eos_penalty == 1.0
    assert (params.update.rollout_correction, params.update.rollout_correction_max) == ("token_truncate", 2.0)
    assert (params.compute.kernels, params.prompts.special_tokens, params.reference.share_prefix) == (
        "torch", "tokens", False,
    )  # fmt: skip
    assert "params.yaml: added update.policy_loss: ppo\n" in said and "reward.components.0.tolerance: null" in said
    assert "rounds.r003.reward.components.0.pattern: null" in said
    assert "bootstrap_truncated: true is bootstrap: truncated now" in said
    again, said = upgrade(new)
    assert again == new and "nothing to add" in said


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_setting_that_came_later_is_put_back_where_it_was_taken_out(end: str) -> None:
    # Every third of them is taken out of the committed file, a line each; what comes back is the same but for values.
    lines, taken, section = COMMITTED.splitlines(), {}, ""
    for number, line in enumerate(lines):
        name = line.strip().partition(":")[0]
        if line and line[0].isalpha():
            section = name
        field = getattr(Params.model_fields.get(section), "annotation", None)
        inner = getattr(field, "model_fields", {}).get(name) if line.startswith("  ") else None
        if inner is not None and line[2] != " " and value_before(inner) is not NO_VALUE:
            taken[number] = f"  {name}: {as_yaml(value_before(inner))}"
    for start in range(3):
        some = [*taken][start::3]
        without = end.join(line for number, line in enumerate(lines) if number not in some) + end
        whole = end.join(taken[n] if n in some else line for n, line in enumerate(lines)) + end
        assert upgraded(without)[0] == whole


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vllm:\n  tensor_parallel: 1\n  gpu_memory: 0.9\n", "vllm:\n  tensor_parallel: 1\n  gpu_memory: 0.9\n"),
        ("vllm: {tensor_parallel: 2}\n", "vllm: {tensor_parallel: 2, gpu_memory: 0.9}\n"),
        ("vllm: {gpu_memory: 0.5}  # small\n", "vllm: {tensor_parallel: 1, gpu_memory: 0.5}  # small\n"),
        ("vllm: {}\n", "vllm: {tensor_parallel: 1, gpu_memory: 0.9}\n"),
        ("vllm:\n    gpu_memory: 0.5\n", "vllm:\n    tensor_parallel: 1\n    gpu_memory: 0.5\n"),
        (
            "vllm:\n  tensor_parallel: 1  # one\n  # none\n",
            "vllm:\n  tensor_parallel: 1  # one\n  gpu_memory: 0.9\n  # none\n",
        ),
        ("", "vllm:\n  tensor_parallel: 1\n  gpu_memory: 0.9\n"),
    ],
)
def test_maps_in_either_style_and_whole_sections(old: str, new: str) -> None:
    there = "\nvllm:\n  tensor_parallel: 1\n  gpu_memory: 0.9\n"
    assert there in COMMITTED
    text = COMMITTED.replace(there, f"\n{old}" if old else "")
    assert upgraded(text)[0] == COMMITTED.replace(there, f"\n{new}")


def test_a_text_of_several_lines_and_a_file_without_a_last_line_end() -> None:
    head, _, rest = COMMITTED.partition("  system: null\n")
    text = head + "  system: |\n    Be brief.\n\n    Be polite.\n\n" + rest
    for name in ("continue_final_message: false", "date: '2024-07-26'", "special_tokens: text"):
        text = text.replace(f"  {name}\n", "")
    assert load(upgraded(text)[0])["prompts"]["system"] == "Be brief.\n\nBe polite.\n"
    rounds = COMMITTED.index("\n# Each round")
    last = COMMITTED[:rounds].replace("  gpu_memory: 0.9\n", "").rstrip("\n")
    assert upgraded("rounds: {}\n" + last)[0] == "rounds: {}\n" + last + "\n  gpu_memory: 0.9\n"


def test_a_setting_and_a_section_that_go_to_one_place() -> None:
    taken = [
        line for line in COMMITTED.splitlines(keepends=True) if line.startswith(("  special_tokens", "preferences"))
    ]
    text = COMMITTED.replace(taken[0], "").replace(taken[1], "")
    assert "  date: '2024-07-26'\n  special_tokens: tokens\n\npreferences: {}\n\nsft:" in upgraded(text)[0]


def test_a_file_that_is_wrong_for_another_reason_stays_and_says_why() -> None:
    text = OLDEST.read_text(encoding="utf-8").replace("  lr: 0.0003\n  value_lr", "  value_lr")
    same, said = upgrade(text, code=1)
    assert (
        same == text and "update.lr: this setting is missing; no setting has" in said and "Nothing was changed" in said
    )
    assert upgrade("a: [1\n", code=1)[0] == "a: [1\n"


def test_an_error_for_a_missing_line_names_its_value_and_the_command() -> None:
    text = COMMITTED.replace("  policy_loss: ppo\n", "").replace("preferences: {}", "#")
    Path("params.yaml").write_text(text, encoding="utf-8")
    said = CliRunner().invoke(main, ["rounds", "list"]).output
    assert "params.yaml: update.policy_loss: this setting is missing; `policy_loss: ppo` keeps what ran before" in said
    assert "params.yaml: preferences: this setting is missing; `preferences: {}` keeps" in said
    assert "`ppo-pipeline params upgrade` adds 2 such lines" in said
    Path("params.yaml").write_text(OLDEST.read_text(encoding="utf-8"), encoding="utf-8")
    said = CliRunner().invoke(main, ["rounds", "list"]).output
    assert said.count("is missing; `") == 8 and "... and 69 more" in said
    Path("params.yaml").write_text(COMMITTED.replace("  gamma: 1.0\n", ""), encoding="utf-8")
    said = CliRunner().invoke(main, ["rounds", "list"]).output
    assert "no setting has a hidden default" in said and "upgrade" not in said


def test_each_value_is_one_that_its_setting_takes_and_reads_back_from_yaml() -> None:
    sections = {name: f.annotation for name, f in Params.model_fields.items() if hasattr(f.annotation, "model_fields")}
    for cls in [*sections.values(), *component_types().values()]:
        for name, field in cls.model_fields.items():
            if (value := value_before(field)) is not NO_VALUE:
                assert load(f"{name}: {as_yaml(value)}") == {name: value}, (cls, name)


def test_a_stale_schema_is_renewed_and_another_dvc_yaml_is_told_of() -> None:
    Path("params.schema.json").write_text("{}", encoding="utf-8")
    Path("dvc.yaml").write_text("cmd: python -m ppo_pipeline.stages code\n", encoding="utf-8")
    same, said = upgrade(COMMITTED)
    assert same == COMMITTED and "params.schema.json is of this version now" in said
    assert Path("params.schema.json").read_bytes() == (ROOT / "params.schema.json").read_bytes()
    assert "dvc.yaml differs from this version's" in said
    Path("params.schema.json").unlink()
    Path("dvc.yaml").write_text(project_dvc_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8")), encoding="utf-8")
    said = upgrade(COMMITTED)[1]
    assert not Path("params.schema.json").exists() and "differs" not in said
