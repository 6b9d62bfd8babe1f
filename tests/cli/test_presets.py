"""params/: every preset loads and says what its notebook did; `ppo-pipeline preset` applies one and loses nothing."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.types.rule import RuleComponent
from ppo_pipeline.settings.json_schema import HEAD
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import ROUND_STAGES

ROOT = Path(__file__).resolve().parents[2]
PRESETS = dict(sorted((path.stem, path) for path in (ROOT / "params").iterdir()))
# Written down from the notebooks, not from the presets. value_coef: the full notebook has 0.5 of a squared error
# without the half that ours has.
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "notebook-full": {
        "base": {"model": "Qwen/Qwen3-0.6B"},
        "prompts": {"source": "data/prompts/questions-chinese.jsonl", "system": None, "chat_template": "plain"},
        "policy": {"tuning": "full", "critic": "shared", "value_head_init": "normal", "value_head_std": 0.01},
        "compute": {"dtype": "fp32"},
        "rollout": {
            "prompts_per_round": 2, "samples_per_prompt": 1, "max_new_tokens": 50, "temperature": 1.0, "top_k": 50,
            "top_p": 0.9, "min_p": None, "greedy": False, "batch_size": 2,
        },
        "advantage": {
            "estimator": "gae", "kl_coef": 0.1, "kl_estimator": "k1", "kl_penalty": "sequence_sum", "kl_target": None,
            "gamma": 0.99, "lambda": 0.95, "bootstrap": "always", "whiten_advantages": "minibatch",
            "whiten_rewards": "none", "score_scaling": "none", "score_clip": None,
        },
        "update": {
            "lr": 5e-6, "value_lr": 5e-6, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-8, "weight_decay": 0.0,
            "epochs": 2, "minibatches": 2, "clip_range": 0.2, "clip_range_high": None, "value_clip_range": None,
            "value_coef": 1.0, "entropy_coef": 0.005, "max_grad_norm": 0.5, "loss_normalization": "token_mean",
            "lr_schedule": "constant", "target_kl": None, "gradient_checkpointing": False,
        },
    },
    "notebook-lora": {
        "seed": 42,
        "base": {"model": "Qwen/Qwen2-0.5B-Instruct"},
        "prompts": {
            "source": "data/prompts/tasks-chinese.jsonl", "system": "You are a helpful assistant.",
            "chat_template": "auto",
        },
        "policy": {
            "tuning": "lora", "critic": "shared", "rank": 8, "alpha": 16.0, "use_rslora": False, "dropout": 0.05,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "value_head_init": "uniform",
        },
        "rollout": {
            "prompts_per_round": 1, "samples_per_prompt": 1, "max_new_tokens": 48, "temperature": 1.0, "top_k": None,
            "top_p": 0.9, "min_p": None, "greedy": False,
        },
        "advantage": {
            "estimator": "gae", "kl_coef": 0.05, "kl_estimator": "k1", "kl_penalty": "token", "kl_target": None,
            "gamma": 1.0, "lambda": 0.95, "bootstrap": "none", "whiten_advantages": "response",
            "whiten_rewards": "none",
        },
        "update": {
            "lr": 1e-4, "value_lr": 1e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-8,
            "weight_decay": 0.01, "epochs": 2, "minibatches": 1, "clip_range": 0.2, "value_clip_range": 0.2,
            "value_coef": 0.5, "entropy_coef": 0.0, "max_grad_norm": 1.0, "loss_normalization": "token_mean",
            "gradient_checkpointing": True,
        },
    },
}  # fmt: skip
ROUNDS = {"notebook-full": 3, "notebook-lora": 40, "notebook-lora-scaled": 12}


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
            wanted = {component.column, component.case_column} if component.case_column else {component.column}
            assert component.match in ("none", "regex") or wanted <= set(table.column_names)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_s_settings(name: str) -> None:
    found = load_params(PRESETS[name]).model_dump(by_alias=True)
    for section, settings in NOTEBOOKS[name].items():
        if isinstance(settings, dict):
            assert {key: found[section][key] for key in settings} == settings
        else:
            assert found[section] == settings


@pytest.mark.parametrize("name", ROUNDS)
def test_a_notebook_s_rounds_are_a_chain(name: str) -> None:
    rounds = load_params(PRESETS[name]).rounds
    assert list(rounds) == [f"r{i:03d}" for i in range(1, ROUNDS[name] + 1)]
    assert [entry.parent for entry in rounds.values()] == ["r000", *list(rounds)[:-1]]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_ours_says_why(name: str) -> None:
    lines = PRESETS[name].read_text(encoding="utf-8").splitlines()
    ours = [line.split("# ours")[1] for line in lines if "# ours" in line]
    assert len(ours) > 10
    assert all(re.match(r"[:;,] \w.{5}", text) for text in ours), ours


def test_the_scaled_preset_is_the_lora_notebook_s_but_for_the_lines_that_say_so() -> None:
    lines, scaled = (
        PRESETS[name].read_text("utf-8").splitlines() for name in ("notebook-lora", "notebook-lora-scaled")
    )
    marked = [line for line in scaled if "# scaled" in line]
    assert len(marked) > 8
    mine = {line.split(":")[0] for line in marked}
    theirs = [line for line in lines if not line.startswith("#") and line.split(":")[0] not in mine]
    rest = [line for line in scaled if not line.startswith("#") and line.split(":")[0] not in mine]
    assert [line.split("#")[0].rstrip() for line in theirs][: len(rest)] == [
        line.split("#")[0].rstrip() for line in rest
    ]
    params = load_params(PRESETS["notebook-lora-scaled"])
    assert params.rollout.prompts_per_round * params.rollout.samples_per_prompt == 64


def test_skills_is_the_committed_params_yaml_which_names_the_schema_too() -> None:
    """Byte for byte, so that git sees no change where `ppo-pipeline preset skills` brings them back."""
    assert f"{HEAD}\n".encode() + PRESETS["skills"].read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_there_is_a_way_back_to_the_committed_settings(project: Path) -> None:
    Path("params.schema.json").write_text("{}", encoding="utf-8")
    committed = Path("params.yaml").read_bytes()
    for name in ("english", "skills"):
        preset(name)
    assert Path("params.yaml").read_bytes() == committed
    assert not list(Path().glob("params.before-*"))


def test_english_differs_from_the_committed_settings_in_what_is_of_its_task() -> None:
    committed, english = (load_params(path).model_dump() for path in (ROOT / "params.yaml", PRESETS["english"]))
    sizes = {"rollout": ["max_new_tokens"], "evaluate": ["max_new_tokens", "batch_size"]}
    for section, names in {"prompts": ["source"], **sizes}.items():
        for name in names:
            assert committed[section].pop(name) != english[section].pop(name)
    assert committed.pop("reward") != english.pop("reward")
    assert english == committed


def test_rlhf_differs_from_the_committed_settings_in_its_three_steps_and_its_task() -> None:
    committed, rlhf = (load_params(path).model_dump() for path in (ROOT / "params.yaml", PRESETS["rlhf"]))
    three = {"policy": ["start"], "update": ["schedule_rounds"]}
    sizes = {"rollout": ["max_new_tokens"], "evaluate": ["max_new_tokens"]}
    for section, names in {"prompts": ["source"], **three, **sizes}.items():
        for name in names:
            assert committed[section].pop(name) != rlhf[section].pop(name)
    for section in ("sources", "sft", "preferences", "reward_model", "reward", "rounds"):
        assert committed.pop(section) != rlhf.pop(section)
    assert rlhf == committed


def test_the_gold_reward_of_rlhf_is_recorded_and_the_policy_never_learns_from_it() -> None:
    params = load_params(PRESETS["rlhf"])
    proxy, gold = params.reward.components
    assert (proxy.weight, proxy.model, proxy.ensemble) == (1.0, "data/reward_model/requests", "mean")
    assert (gold.weight, gold.function) == (0.0, "reward_functions.courtesy:reward")
    assert params.reward_model["requests"].preferences in params.preferences


def test_what_rlhf_names_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    said = preset("rlhf")
    names = ("data/prompts", "data/demonstrations", "data/pairs")
    for path in (*(f"{name}/requests.jsonl" for name in names), "reward_functions/courtesy.py"):
        assert Path(path).read_bytes() == (ROOT / path).read_bytes() and path in said


def test_scaled_is_short_for_the_preset_of_that_name(project: Path) -> None:
    preset("notebook-lora", "--scaled")
    assert Path("params.yaml").read_bytes() == PRESETS["notebook-lora-scaled"].read_bytes()
    assert "no 'notebook-full-scaled'" in preset("notebook-full", "--scaled", code=1)
    assert "Did you mean 'notebook-lora-scaled'" in preset("notebook-lor", "--scaled", code=1)


def test_the_full_notebook_s_reward_is_deberta_on_one_text_that_is_never_cut() -> None:
    (reward,) = load_params(PRESETS["notebook-full"]).reward.components
    assert (reward.type, reward.weight, reward.input, reward.output) == ("model", 1.0, "concat", "logit")
    assert reward.too_long == "error"
    assert reward.model == "OpenAssistant/reward-model-deberta-v3-base"


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("Paris", 1 - 5 * 0.002),
        (" **x\n", -1 - 0.002),  # stars at the ends go too
        ("The capital is  PARIS.", 1 - 17 * 0.002),  # thecapitalisparis
        ("Lyon, I think", -1 - 10 * 0.002),
        ("", -1.0),
        ("no" * 1000, -1 - 2000 * 0.002),  # no limit
    ],
)
def test_the_lora_notebook_s_reward_by_hand(response: str, reward: float) -> None:
    (component,) = load_params(PRESETS["notebook-lora"]).reward.components
    assert component.weight == 1.0
    samples = Samples(["a"], [[{"role": "user", "content": "?"}]], ["?"], [response], [[1]], {"expected": ["Paris"]})
    assert isinstance(component, RuleComponent)
    assert component.score(samples) == [pytest.approx(reward)]


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
    assert list(texts) == sorted(["bare", *PRESETS, "other"])
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


def test_beside_the_schema_a_preset_names_it_to_editors(project: Path) -> None:
    Path("params.schema.json").write_text("{}", encoding="utf-8")
    preset("notebook-full")
    assert Path("params.yaml").read_bytes() == f"{HEAD}\n".encode() + PRESETS["notebook-full"].read_bytes()
    assert "already" in preset("notebook-full")
    before = files()
    preset("notebook-lora")
    assert set(files()) == set(before)  # the former one is a preset's, and not kept


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
        ("../params", r"There are: english, notebook-full, notebook-lora"),
        ("", r"There are: english, notebook-full, notebook-lora"),
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
    assert "with data/prompts/questions-chinese.jsonl" in preset("notebook-full")
    brought = {"data/prompts/questions-chinese.jsonl": (ROOT / "data/prompts/questions-chinese.jsonl").read_bytes()}
    made = {"params.yaml": PRESETS["notebook-full"].read_bytes()}
    assert files() == {**before, **made, **brought, "params.before-notebook-full.yaml": before["params.yaml"]}


def test_a_project_s_own_prompts_of_that_name_stay(project: Path) -> None:
    Path("data/prompts/questions-chinese.jsonl").write_text("mine")
    assert "with data" not in preset("notebook-full")
    assert Path("data/prompts/questions-chinese.jsonl").read_text() == "mine"


def test_another_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run from the project's top folder" in preset(code=1)
