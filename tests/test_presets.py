"""params/: every preset loads and says what its notebook did; `ppo-pipeline preset` applies one and loses nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.params import load_params
from ppo_pipeline.prompt_sources import read_prompts
from ppo_pipeline.reward_sections import RuleComponent
from ppo_pipeline.rewards.rule import rule_rewards
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.stage_settings import ROUND_STAGES

ROOT = Path(__file__).resolve().parent.parent
PRESETS = {path.stem: path for path in sorted((ROOT / "params").iterdir())}
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "notebook-full": {
        "base": {"model": "Qwen/Qwen3-0.6B"},
        "prompts": {"source": "data/prompts/chinese.jsonl"},
        "policy": {"tuning": "full", "critic": "shared"},
        "rollout": {"prompts_per_round": 2, "samples_per_prompt": 1, "max_new_tokens": 50},
        "advantage": {"estimator": "gae", "gamma": 0.99, "lambda": 0.95, "kl_penalty": "sequence_sum"},
        "update": {"clip_range": 0.2, "entropy_coef": 0.01, "epochs": 4, "value_clip_range": None},
    },
    "notebook-lora": {
        "base": {"model": "Qwen/Qwen2-0.5B-Instruct"},
        "prompts": {"chat_template": "auto"},
        "policy": {
            "tuning": "lora", "critic": "shared", "rank": 8, "alpha": 16.0, "use_rslora": False,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "advantage": {"estimator": "gae", "kl_penalty": "token"},
        "update": {"clip_range": 0.2, "value_clip_range": 0.2, "gradient_checkpointing": True, "entropy_coef": 0.0},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_for_every_round_and_stage(name: str) -> None:
    params = load_params(PRESETS[name])
    assert params.rounds
    for round_name in params.rounds:
        for cls in ROUND_STAGES.values():
            assert cls.of(params, round_name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_s_prompts_are_committed_and_have_what_its_rewards_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    params = load_params(PRESETS[name])
    assert params.prompts.source.startswith("data/prompts/")
    table = read_prompts(params.prompts)
    assert table.column("split").to_pylist().count("train") >= params.rollout.prompts_per_round
    for component in params.reward.components:
        if isinstance(component, RuleComponent):
            wanted = {"expected", component.case_column} if component.case_column else {"expected"}
            assert component.match in ("none", "regex") or wanted <= set(table.column_names)


def test_the_notebooks_presets_are_there() -> None:
    assert set(NOTEBOOKS) <= set(PRESETS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_s_settings(name: str) -> None:
    found = load_params(PRESETS[name]).model_dump(by_alias=True)
    for section, settings in NOTEBOOKS[name].items():
        assert {key: found[section][key] for key in settings} == settings


def test_the_full_notebook_s_reward_is_deberta_on_the_pair() -> None:
    (reward,) = load_params(PRESETS["notebook-full"]).reward.components
    assert (reward.type, reward.weight, reward.input, reward.output) == ("model", 1.0, "pair", "logit")
    assert reward.model == "OpenAssistant/reward-model-deberta-v3-base"


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("Paris", 1 - 5 * 0.002),
        (" **x\n", -1 - 0.002),  # stars at the ends go too
        ("The capital is  PARIS.", 1 - 20 * 0.002),  # white space folded, the full stop at the end removed
        ("Lyon, I think", -1 - 13 * 0.002),
        ("", -1.0),
        ("no" * 1000, -1 - 2000 * 0.002),  # no limit
    ],
)
def test_the_lora_notebook_s_reward_by_hand(response: str, reward: float) -> None:
    (component,) = load_params(PRESETS["notebook-lora"]).reward.components
    assert component.weight == 1.0
    samples = Samples(["a"], [[{"role": "user", "content": "?"}]], ["?"], [response], [[1]], {"expected": ["Paris"]})
    assert isinstance(component, RuleComponent)
    assert rule_rewards(component, samples) == [pytest.approx(reward)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params").mkdir()
    for name, path in PRESETS.items():
        Path(f"params/{name}.yaml").write_bytes(path.read_bytes())
    shutil.copytree(ROOT / "data/prompts", "data/prompts")
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def preset(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["preset", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_the_list_has_each_preset_s_first_comment_and_changes_nothing(project: Path) -> None:
    Path("params/bare.yaml").write_text("seed: 1\n")
    Path("params/other.yaml").write_text("\n#\n#  Two\x1b[31m words\n# more\n")
    before = files()
    texts = {name: text for name, _, text in (line.partition(" ") for line in preset().splitlines())}
    assert list(texts) == ["bare", *PRESETS, "other"]
    assert texts["notebook-lora"].strip() == PRESETS["notebook-lora"].read_text().splitlines()[0].removeprefix("# ")
    assert texts["other"].strip() == r"Two\x1b[31m words"
    assert files() == before


def test_a_preset_becomes_params_yaml_and_the_former_one_is_kept(project: Path) -> None:
    own = Path("params.yaml").read_bytes() + b"# mine\n"
    Path("params.yaml").write_bytes(own)
    before = files()
    assert "params.before-notebook-full.yaml" in preset("notebook-full")
    target = PRESETS["notebook-full"].read_bytes()
    assert files() == {**before, "params.yaml": target, "params.before-notebook-full.yaml": own}


def test_nothing_is_kept_of_what_a_preset_holds(project: Path) -> None:
    preset("notebook-full")
    before = files()
    assert "already" in preset("notebook-full")
    assert files() == before
    preset("notebook-lora")
    assert files() == {**before, "params.yaml": PRESETS["notebook-lora"].read_bytes()}


def test_former_settings_that_are_kept_are_never_overwritten(project: Path) -> None:
    first = Path("params.yaml").read_bytes()
    preset("notebook-full")
    Path("params.yaml").write_bytes(b"# other settings\n")
    before = files()
    message = preset("notebook-full", code=1)
    assert "params.before-notebook-full.yaml holds former settings already" in message
    assert files() == before
    Path("params.yaml").write_bytes(first)  # these are kept there already
    preset("notebook-full")
    assert files() == {**before, "params.yaml": PRESETS["notebook-full"].read_bytes()}


def test_a_link_is_replaced_and_what_it_points_to_stays(project: Path) -> None:
    Path("params.yaml").unlink()
    Path("params.yaml").symlink_to("params/notebook-lora.yaml")
    preset("notebook-full")
    assert not Path("params.yaml").is_symlink()
    assert Path("params/notebook-lora.yaml").read_bytes() == PRESETS["notebook-lora"].read_bytes()
    assert Path("params.yaml").read_bytes() == PRESETS["notebook-full"].read_bytes()


def test_without_a_params_yaml_the_preset_makes_one(project: Path) -> None:
    Path("params.yaml").unlink()
    preset("notebook-lora")
    assert not list(Path().glob("params.before-*"))
    assert load_params().base.model == "Qwen/Qwen2-0.5B-Instruct"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notebook-ful", r"no preset 'notebook-ful'. Did you mean 'notebook-full'?"),
        ("../params", r"There are: notebook-full, notebook-lora"),
        ("", r"There are: notebook-full, notebook-lora"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(project: Path, name: str, message: str) -> None:
    before = files()
    assert message in preset(name, code=1)
    assert files() == before


def test_a_preset_with_a_mistake_is_not_applied(project: Path) -> None:
    path = Path("params/notebook-full.yaml")
    path.write_text(path.read_text().replace("temperature:", "temprature:"))
    before = files()
    assert "Did you mean 'temperature'" in preset("notebook-full", code=1)
    assert files() == before


def test_sealed_rounds_of_other_settings_are_not_mixed_in(project: Path) -> None:
    Path("sealed").mkdir()
    Path("sealed/rounds.yaml").write_text("r001: {parent: r000}\n")
    before = Path("params.yaml").read_bytes()
    assert "rounds unseal r001" in preset("notebook-full", code=1)
    assert Path("params.yaml").read_bytes() == before


def test_a_project_without_params_has_the_package_s_presets_and_is_brought_their_prompts(project: Path) -> None:
    shutil.rmtree("params")
    shutil.rmtree("data")
    Path("dvc.yaml").touch()
    assert [line.split()[0] for line in preset().splitlines()] == list(PRESETS)
    before = files()
    assert "with data/prompts/chinese.jsonl" in preset("notebook-full")
    brought = {"data/prompts/chinese.jsonl": (ROOT / "data/prompts/chinese.jsonl").read_bytes()}
    made = {"params.yaml": PRESETS["notebook-full"].read_bytes()}
    assert files() == {**before, **made, **brought, "params.before-notebook-full.yaml": before["params.yaml"]}


def test_a_project_s_own_prompts_of_that_name_stay(project: Path) -> None:
    Path("data/prompts/chinese.jsonl").write_text("mine")
    assert "with data" not in preset("notebook-full")
    assert Path("data/prompts/chinese.jsonl").read_text() == "mine"


def test_another_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run from the project's top folder" in preset(code=1)
