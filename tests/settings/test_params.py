"""params.yaml: what is accepted, what is refused and how, and the effective settings of each stage."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.params import Params, load_params
from ppo_pipeline.settings.stage_settings import ROUND_STAGES, AdvantageSettings, read_settings

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
DATA = YAML(typ="safe").load(COMMITTED)


def changed(tmp_path: Path, path: str, value: Any) -> Path:
    """Write the committed settings with one changed: a dotted path; `...` as value removes the setting."""
    data = deepcopy(DATA)
    data["rounds"] = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}}
    section = data
    *sections, last = path.split(".")
    for name in sections:
        section = section[int(name) if name.isdigit() else name]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    YAML().dump(data, tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


def test_the_committed_file_loads_and_every_round_has_settings_for_every_stage() -> None:
    params = load_params(COMMITTED)
    for name in params.rounds:
        for cls in ROUND_STAGES.values():
            assert cls.of(params, name)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("advantage.kl_coeff", 0.1, r"advantage\.kl_coeff: no such setting\. Did you mean 'kl_coef'\?"),
        ("update.learning_rate", 0.1, r"`learning_rate` of TRL's PPOConfig and TRL's GRPOConfig is update\.lr here\."),
        ("update.kl_coef", 0.1, r"update\.kl_coef: no such setting\. `kl_coef` is a setting of `advantage`: advantage"),
        ("kl_coef", 0.1, r"params\.yaml: kl_coef: no such setting\. `kl_coef` is a setting of `advantage`: advantage"),
        ("advantage.target_kl", 0.1, r"a setting of `update`: update\.target_kl\. .* of verl is advantage\.kl_target"),
        ("advantage.missing_end_score", 0.1, r"is a former name; `ppo-pipeline params upgrade` writes today's"),
        ("advantag", {}, r"advantag: no such setting\. Did you mean 'advantage'\?"),
        ("reward.components.0.wieght", 1.0, r"reward\.components\.0\.wieght: no such setting\. Did you mean 'weight'"),
        ("reward.components.0.type", "rul", r"reward\.components\.0: .*'python', 'repetition', 'rule'"),
        ("reward.components.0.match", "exakt", r"reward\.components\.0\.match: .*'exact'"),
        ("update.lr", ..., r"update\.lr: this setting is missing; no setting has a hidden default"),
        ("update.lr", "1e-5", r"update\.lr: .*found '1e-5'.* without quotes and with a decimal point: 1e-05"),
        ("update.lr", 0, r"update\.lr: input should be greater than 0, found 0"),
        ("update.epochs", 1.5, r"update\.epochs: input should be a valid integer"),
        (
            "update.rollout_correction", 2.0,
            r"set rollout_correction: token_truncate and rollout_correction_max: 2\.0, found 2\.0",
        ),
        ("update.rollout_correction", "icepop", r"update\.rollout_correction: .*'token_mask'.*found 'icepop'"),
        ("update.rollout_correction", True, r"update\.rollout_correction: .*'token_mask'.*found True"),
        ("update.epochs", True, r"update\.epochs: input should be a valid integer"),
        ("advantage.gamma", 1.1, r"advantage\.gamma: input should be less than or equal to 1"),
        ("advantage.kl_estimator", "k4", r"advantage\.kl_estimator: .*'k1', 'k2' or 'k3'"),
        ("rounds.r002.parent", "r01", r"rounds\.r002\.parent: no round 'r01'\. Did you mean 'r001'\?"),
        ("rounds.r001.parent", "r002", r"rounds\.r00\d is among its own ancestors"),
        ("rounds.r002.parent", "r002", r"rounds\.r002 is among its own ancestors"),
        ("rounds.r000", {"parent": "r001"}, r"rounds\.r000 is the untrained policy's name"),
        ("rounds.r002.advantag", {"gamma": 1.0}, r"rounds\.r002\.advantag: no such setting\. Did you mean 'advantage'"),
        ("rounds.r002.advantage", {"gama": 1.0}, r"\(rounds\.r002\): advantage\.gama: no such setting.*'gamma'"),
        ("rounds.r002.update", {"lr": -1.0}, r"\(rounds\.r002\): update\.lr: input should be greater than 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_its_cure(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_params(changed(tmp_path, path, value))


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\xff\xfe"])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(PipelineError, match=r"params\.yaml: (not valid YAML|expected sections)"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(PipelineError, match="no such file"):
        load_params(tmp_path / "other.yaml")


def test_yaml_1_2_floats_need_no_decimal_point(tmp_path: Path) -> None:
    text = COMMITTED.read_text().replace("lr: 0.0006", "lr: 6e-4", 1)
    (tmp_path / "params.yaml").write_text(text)
    assert isinstance(load_params(tmp_path / "params.yaml").update.lr, float)


def test_an_override_holds_in_its_round_alone_and_leaves_the_rest(tmp_path: Path) -> None:
    params = load_params(changed(tmp_path, "rounds.r002.advantage", {"kl_coef": 0.5, "lambda": 0.5}))
    assert params.of_round("r002").advantage.kl_coef == 0.5
    assert params.of_round("r002").advantage.lam == 0.5
    assert params.of_round("r002").advantage.gamma == params.advantage.gamma
    assert params.of_round("r001") == params.of_round("r000") == params
    seeded = load_params(changed(tmp_path, "rounds.r002.seed", 7))
    assert (seeded.of_round("r001").seed, seeded.of_round("r002").seed) == (DATA["seed"], 7)


def test_lineage_and_depth_follow_the_parents(tmp_path: Path) -> None:
    params = load_params(changed(tmp_path, "rounds.branch", {"parent": "r001"}))
    assert params.lineage("branch") == ["r001", "branch"]
    assert [params.depth(n) for n in ("r000", "r001", "r002", "branch")] == [0, 1, 2, 2]


@pytest.mark.parametrize("stage", ROUND_STAGES)
def test_a_stage_s_settings_survive_their_file_and_change_only_with_their_sections(tmp_path: Path, stage: str) -> None:
    """For each numeric setting of params.yaml: the stage's file changes if and only if its section is the stage's."""
    cls = ROUND_STAGES[stage]
    params = load_params(changed(tmp_path, "seed", 0))
    file = tmp_path / "settings.json"
    text = cls.of(params, "r001").model_dump_json(by_alias=True)
    file.write_text(text)
    assert read_settings(cls, file) == cls.of(params, "r001")
    shared = {name: f"rollout.{name}" for name in ("temperature", "max_prompt_tokens", "max_new_tokens")}
    for section in ("rollout", "reference", "advantage", "update", "evaluate"):
        for setting, value in DATA[section].items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            other = load_params(
                changed(tmp_path, f"{section}.{setting}", value / 2 if isinstance(value, float) else value + 1)
            )
            used = section in cls.model_fields or any(
                path == f"{section}.{setting}" and name in cls.model_fields for name, path in shared.items()
            )
            if value:
                assert (cls.of(other, "r001").model_dump_json(by_alias=True) != text) is used, f"{section}.{setting}"


def test_a_damaged_settings_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"round": "r001"}')
    with pytest.raises(PipelineError, match=r"a\.json: advantage: this setting is missing"):
        read_settings(AdvantageSettings, tmp_path / "a.json")
    with pytest.raises(PipelineError, match="dvc repro settings"):
        read_settings(AdvantageSettings, tmp_path / "b.json")


def test_the_entry_of_sft_that_the_docs_have_is_a_whole_one(tmp_path: Path) -> None:
    page = (COMMITTED.parent / "docs/prompts.md").read_text(encoding="utf-8")
    entry = YAML(typ="safe").load(page.partition("```yaml\nsft:")[2].partition("```")[0])
    assert load_params(changed(tmp_path, "sft", entry)).sft["chat"].alpha == 32


def test_every_setting_has_a_description() -> None:
    def walk(cls: Any, path: str) -> None:
        for name, field in cls.model_fields.items():
            inner = [
                a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(a, "model_fields")
            ]
            assert inner or field.description or name in ("type", "seed"), f"{path}.{name}"
            for other in inner:
                if other.__name__ != "Round":
                    walk(other, f"{path}.{name}")

    walk(Params, "params")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("update", ..., r"update: this setting is missing"),
        ("update", None, r"update: input should be a valid dictionary"),
        ("rounds", None, r"rounds: input should be a valid dictionary"),
        ("rounds.r002", {}, r"rounds\.r002\.parent: this setting is missing"),
        ("rounds.r002", None, r"rounds\.r002: input should be a valid dictionary"),
        ("rounds", {9: {"parent": "r000"}}, r"rounds\.9\.\[key\]: .*found 9"),
        ("rounds.009", {"parent": "r000"}, r"rounds\.009\.\[key\]: .*found '009'"),
        ("rounds.r002.base", {"model": "x"}, r"rounds\.r002\.base: no such setting"),
        ("rounds.r002.update", 5, r"rounds\.r002\.update: input should be a valid dictionary, found 5"),
        ("rounds.r002.update", {"lr": "1e-5"}, r"\(rounds\.r002\): update\.lr: .*found '1e-5'"),
        ("rounds.r002.seed", -1, r"\(rounds\.r002\): seed: input should be greater than or equal to 0"),
        (
            "rounds.r002.reward",
            {"components": []},
            r"\(rounds\.r002\): reward\.components: list should have at least 1",
        ),
    ],
)
def test_a_section_or_a_round_of_a_wrong_shape_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_params(changed(tmp_path, path, value))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "path", ["update.lr", "update.max_grad_norm", "advantage.kl_coef", "rollout.temperature", "reward.components.0.hit"]
)
def test_a_number_that_is_not_finite_stops_before_any_costly_work(tmp_path: Path, path: str, number: float) -> None:
    """JSON has no such number: the stage's file would hold null, and the stage would stop hours later."""
    with pytest.raises(PipelineError, match=rf"{path}: "):
        load_params(changed(tmp_path, path, number))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(COMMITTED.read_text() + "\nseed: 4\n")
    with pytest.raises(PipelineError, match="`seed` stands twice, first in line"):
        load_params(tmp_path / "params.yaml")


def test_all_mistakes_are_told_at_a_time(tmp_path: Path) -> None:
    path = changed(tmp_path, "update", {**DATA["update"], "lr": 0, "epochs": 0, "more": 1})
    with pytest.raises(PipelineError) as caught:
        load_params(path)
    settings = [line.removeprefix(f"{path}: ").split(":")[0] for line in caught.value.message.splitlines()]
    assert sorted(settings) == ["update.epochs", "update.lr", "update.more"]


DECLARED = {
    "rollout": {
        "round",
        "start",
        "parent",
        "depth",
        "seed",
        "chat_template",
        "date",
        "special_tokens",
        "rollout",
        "vllm",
        "compute",
    },
    "reward": {"round", "threads", "reward"},
    "reference": {"round", "start", "parent", "temperature", "reference", "compute"},
    "advantage": {"round", "parent", "depth", "critic_alone", "overlong_limit", "tells_correct", "advantage"},
    "update": {
        "round",
        "start",
        "parent",
        "depth",
        "critic_alone",
        "seed",
        "temperature",
        "max_new_tokens",
        "share_prefix",
        "whiten_minibatches",
        "update",
        "compute",
    },
    "evaluate": {
        "round",
        "start",
        "chat_template",
        "date",
        "special_tokens",
        "max_prompt_tokens",
        "stop_tokens",
        "evaluate",
        "sampling",
        "vllm",
        "reward",
        "compute",
    },
}


@pytest.mark.parametrize("stage", ROUND_STAGES)
def test_a_stage_s_file_has_its_own_sections_with_the_file_s_values(stage: str) -> None:
    """Each key here is a reason to rerun the stage: one more costs people hours."""
    settings = ROUND_STAGES[stage].of(load_params(COMMITTED), "r002").model_dump(by_alias=True)
    assert set(settings) == DECLARED[stage]
    decides = {name: value for name, value in DATA["compute"].items() if name not in ("engine", "workers")}
    known = {
        "compute": decides,
        "threads": DATA["compute"]["threads"],
        "round": "r002",
        "start": "data/base",
        "parent": "r001",
        "depth": 2,
        "seed": DATA["seed"],
        "share_prefix": DATA["reference"]["share_prefix"],
        "vllm": None,
        "sampling": None,
        "whiten_minibatches": False,
        "overlong_limit": None,
        "tells_correct": False,
        "critic_alone": False,
        **{n: DATA["rollout"][n] for n in ("temperature", "max_prompt_tokens", "max_new_tokens", "stop_tokens")},
        **{n: DATA["prompts"][n] for n in ("chat_template", "date", "special_tokens")},
    }
    assert settings == {key: known.get(key, DATA.get(key)) for key in DECLARED[stage]}


def test_an_override_reaches_no_other_round_s_files(tmp_path: Path) -> None:
    """Neither the parent nor a child; in its own round only the stages that use the setting."""
    rounds = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}, "r003": {"parent": "r002"}}

    def files(override: dict[str, Any]) -> dict[tuple[str, str], Any]:
        entries = {**rounds, "r002": {**rounds["r002"], **override}}
        params = load_params(changed(tmp_path, "rounds", entries))
        return {(name, stage): cls.of(params, name) for name in rounds for stage, cls in ROUND_STAGES.items()}

    plain = files({})

    def stages(override: dict[str, Any]) -> set[tuple[str, str]]:
        return {key for key, settings in files(override).items() if settings != plain[key]}

    assert stages({"advantage": {"kl_coef": 0.5}}) == {("r002", "advantage")}
    assert stages({"rollout": {"temperature": 0.5}}) == {("r002", s) for s in ("rollout", "reference", "update")}
    assert stages({"seed": 9}) == {("r002", "rollout"), ("r002", "update")}
    more = {"evaluate": {"samples_per_prompt": 2}}
    assert stages(more) == {("r002", "evaluate")}
    sampled = files(more)
    for change in ({"seed": 9}, *({"rollout": {name: 0.5}} for name in ("temperature", "top_p", "min_p"))):
        assert files({**more, **change})["r002", "evaluate"] != sampled["r002", "evaluate"], change
    assert stages({"reward": {"components": DATA["reward"]["components"][:1]}}) == {
        ("r002", "reward"),
        ("r002", "evaluate"),
    }


def test_every_file_that_is_learnt_from_is_a_data_file() -> None:
    names = ("prompts", "demonstrations", "pairs")
    rlhf = load_params(COMMITTED.parent / "params/rlhf.yaml")
    assert rlhf.data_files == [f"data/{name}/requests.jsonl" for name in names]
