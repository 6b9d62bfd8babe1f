"""params.yaml: settings that exclude each other are told in a sentence that says what to do."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from reward_pairs import entry
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import AdvantageSettings, read_settings

DATA = YAML(typ="safe").load(Path(__file__).resolve().parents[2] / "params.yaml")
DATA["rounds"] = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}}
# 64 prompts with one sample each, GAE and a shared critic, four minibatches, whatever is committed.
DATA["policy"]["critic"] = "shared"
DATA["rollout"] |= {"prompts_per_round": 64, "samples_per_prompt": 1}
DATA["advantage"] |= {"estimator": "gae", "whiten_advantages": "round"}
DATA["update"] |= {"minibatches": 4}

# A reward model that is trained here, and a component that loads it.
DATA["preferences"] = {"pairs": {"source": "pairs.jsonl", "heldout_fraction": 0.1}}
DATA["reward_model"] = {"kind": entry(), "three": entry(members=3)}
JUDGE = {
    "name": "judge", "type": "model", "weight": 1.0, "revision": None, "pickled_weights": False, "input": "chat",
    "label": None, "output": "logit", "max_tokens": 90, "too_long": "error", "batch_tokens": 500, "device": "cpu",
    "dtype": "fp32", "ensemble": None,
}  # fmt: skip


def judged(model: str, **changes: Any) -> dict[str, Any]:
    components = [JUDGE | {"model": f"data/reward_model/{model}"} | changes]
    return {"reward.components": components, "reward.correct": None}


FORMS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask")
CONFLICTS: list[tuple[dict[str, Any], str]] = [
    (
        judged("gone"),
        "reward 'judge': model: no 'gone' in `reward_model`; write its settings there, or load another folder.",
    ),
    (
        judged("kind", input="pair"),
        "reward 'judge': input: pair, but reward_model.kind learns by chat; let both be one.",
    ),
    (
        judged("three"),
        "reward 'judge': ensemble: reward_model.three has 3 members; set it to mean or worst.",
    ),
    (
        judged("three/2", ensemble="mean"),
        "reward 'judge': ensemble: reward_model.three has 3 members; set it to null.",
    ),
    (
        {"reward_model": {"kind": entry(preferences="others")}},
        "reward_model.kind.preferences: no 'others' in `preferences`; name one that is there.",
    ),
    (
        {"reward_model": {"r001": entry()}},
        "reward_model.r001 has a round's name; give it another.",
    ),
    (
        {"reward_model": {"kind": entry(tuning="full")}, "compute.dtype": "fp16"},
        "reward_model.kind.tuning full trains in bf16 or fp32; set compute.dtype to one of them.",
    ),
    (
        {"policy.quantization": "nf4", "policy.tuning": "full"},
        "policy.quantization: nf4 freezes the base, and policy.tuning full trains it; set quantization to null, or "
        "tuning to lora.",
    ),
    (
        {"policy.quantization": "nf4", "evaluate.engine": "vllm"},
        "policy.quantization: nf4: engine vllm would sample from the base in its own format; set evaluate.engine to "
        "own.",
    ),
    (
        {"policy.quantization": "nf4", "compute.device": "mps"},
        "policy.quantization: nf4 is not there for compute.device mps; set it to null.",
    ),
    (
        {"policy.critic": "none"},
        "advantage.estimator gae needs values; set policy.critic to shared or separate.",
    ),
    *(
        (
            {"policy.critic": critic, "advantage.estimator": estimator},
            f"advantage.estimator {estimator} compares the responses to a prompt; set rollout.samples_per_prompt to 2 "
            "or more.",
        )
        for estimator in ("rloo", "grpo")
        for critic in ("none", "shared")
    ),
    *(
        (
            {"advantage.estimator": estimator, "advantage.whiten_advantages": whiten},
            f"advantage.estimator {estimator} compares the responses to a prompt; set rollout.samples_per_prompt to 2 "
            "or more.",
        )
        for estimator, whiten in (("dr_grpo", "none"), ("reinforce++_baseline", "round"))
    ),
    (
        {
            "advantage.estimator": "dr_grpo",
            "rollout.samples_per_prompt": 2,
            "advantage.whiten_advantages": "round",
        },
        "advantage: dr_grpo is without a critic, the response's reward less the prompt's mean, divided by nothing; set "
        "whiten_advantages to none.",
    ),
    (
        {"advantage.estimator": "reinforce++", "advantage.whiten_advantages": "none"},
        "advantage: reinforce++ is the reward to go, whitened over the round; set whiten_advantages to round.",
    ),
    *(
        (
            {
                "advantage.estimator": estimator,
                "rollout.samples_per_prompt": 2,
                "advantage.whiten_advantages": "response",
            },
            f"advantage: {estimator} gives all tokens of a response one advantage, which whiten_advantages: response "
            "makes 0; set it to none or round.",
        )
        for estimator in ("rloo", "grpo")
    ),
    (
        {
            "advantage.estimator": "rloo",
            "rollout.samples_per_prompt": 2,
            "update.minibatches": 65,
            "advantage.whiten_advantages": "minibatch",
        },
        "advantage.whiten_advantages: minibatch, over one response, makes rloo's advantages 0; set it to round, or "
        "lower update.minibatches.",
    ),
    *(
        (
            {"policy.value_head_init": how, "policy.value_head_std": std},
            "policy: value_head_init: normal needs a value_head_std, such as 0.01, and every other needs "
            "value_head_std: null.",
        )
        for how, std in (("normal", None), ("zero", 0.01), ("uniform", 0.01))
    ),
    (
        {"policy.tuning": "full", "compute.dtype": "fp16"},
        "policy.tuning full trains in bf16 or fp32; set compute.dtype to one of them.",
    ),
    (
        {"compute.head": "fp32", "evaluate.engine": "vllm"},
        "evaluate.engine: vllm computes the head in the model's dtype; set compute.head to auto, or the engine to own.",
    ),
    (
        {"policy.tuning": "full", "update.average_rounds": 2},
        "update.average_rounds averages LoRA adapters; with policy.tuning full set it to 1.",
    ),
    (
        {"update.minibatches": 65},
        "update.minibatches: 65 for 64 samples a round; a minibatch without a sample would make no step. Lower it, or "
        "sample more.",
    ),
    *(
        (
            {"rollout.greedy": True, f"rollout.{rule}": value},
            "rollout: greedy takes the likeliest token; set top_k, top_p and min_p to null.",
        )
        for rule, value in (("top_k", 5), ("top_p", 0.9), ("min_p", 0.1))
    ),
    (
        {"rollout.greedy": True, "rollout.samples_per_prompt": 2},
        "rollout: greedy makes all samples of a prompt the same; set samples_per_prompt to 1.",
    ),
    (
        {"rollout.greedy": True, "evaluate.samples_per_prompt": 1},
        "evaluate.samples_per_prompt: answers are drawn as in the rollout, and rollout.greedy draws none; set it to 0, "
        "or greedy to false.",
    ),
    *(
        (
            {"update.lr_schedule": schedule, "update.schedule_rounds": None},
            f"update: lr_schedule {schedule} needs schedule_rounds.",
        )
        for schedule in ("linear", "cosine")
    ),
    *(
        (
            {"update.lr_schedule": schedule, "update.warmup_rounds": 4, "update.schedule_rounds": 4},
            "update: schedule_rounds must be more than warmup_rounds.",
        )
        for schedule in ("linear", "cosine", "constant")
    ),
    (
        {"advantage.missing_eos_penalty": 0.0, "advantage.missing_eos_score": 0.0},
        "advantage: missing_eos_penalty subtracts, missing_eos_score replaces; set one of them to null.",
    ),
    (
        {"advantage.kl_target": 6.0, "advantage.kl_coef": 0.0},
        "advantage: kl_target multiplies kl_coef, and 0 stays 0; set kl_coef above 0.",
    ),
    (
        {"advantage.kl_target": 6.0, "advantage.kl_horizon": 12},
        "advantage.kl_horizon: 12 for 64 samples a round lets kl_coef fall to 0 or below; set it above 12.",
    ),
    (
        {"update.critic_warmup_rounds": 2, "policy.critic": "none", "advantage.estimator": "reinforce++"},
        "update.critic_warmup_rounds: 2 needs a critic; set policy.critic to shared or separate, or set it to 0.",
    ),
    (
        {"update.critic_warmup_rounds": 2, "advantage.estimator": "reinforce++"},
        "update.critic_warmup_rounds: 2 needs returns; set advantage.estimator to gae, or set it to 0.",
    ),
    (
        {"update.critic_warmup_rounds": 2, "update.value_coef": 0.0},
        "update.critic_warmup_rounds: 2 needs a value loss; set update.value_coef above 0, or set it to 0.",
    ),
    (
        {"advantage.estimator": "spo"},
        "advantage: spo compares a response with its prompt's earlier ones; set memory_discount, such as 0.9.",
    ),
    (
        {"advantage.estimator": "spo", "advantage.memory_discount": 0.9, "advantage.whiten_rewards": "variance"},
        "advantage: spo compares rewards of different rounds, which whiten_rewards rescales in each; set it to none.",
    ),
    (
        {"rollout.prompt_choice": "informative"},
        "rollout.prompt_choice: informative goes by the share of right answers; set advantage.memory_discount, such as "
        "0.9, or it to shuffle.",
    ),
    (
        {"rollout.prompt_choice": "informative", "advantage.memory_discount": 0.9, "reward.correct": None},
        "rollout.prompt_choice: informative goes by the share of right answers; say in reward.correct which are right, "
        "or set it to shuffle.",
    ),
    *(
        (
            {"advantage.estimator": "reinforce++", f"advantage.{name}": 0.5},
            f"advantage: {name} is gae's, and reinforce++ does not use it; set it to null.",
        )
        for name in ("lambda_returns", "lambda_alpha")
    ),
    *(
        (
            {f"advantage.{name}": 8},
            "advantage: overlong_buffer and overlong_penalty go together: set both, such as 20 and 1.0, or both to "
            "null.",
        )
        for name in ("overlong_buffer", "overlong_penalty")
    ),
    (
        {"rollout.max_new_tokens": 48, "advantage.overlong_buffer": 49, "advantage.overlong_penalty": 1.0},
        "advantage.overlong_buffer: 49 tokens before the end of responses of at most rollout.max_new_tokens = 48; "
        "lower it, or let them be longer.",
    ),
    (
        {"update.likelihood_coef": 0.1, "reward.correct": None},
        "update.likelihood_coef needs reward.correct, which says what answers are right; set that, or it to 0.",
    ),
    *(
        (
            {f"update.rollout_correction_{bound}": value},
            "update: rollout_correction_max and rollout_correction_min need a rollout_correction; set them to null, or "
            "it to one of its forms.",
        )
        for bound, value in (("max", 2.0), ("min", 0.5))
    ),
    *(
        (
            {"update.rollout_correction": form, "update.rollout_correction_min": 0.5},
            f"update: rollout_correction: {form} needs rollout_correction_max, an upper bound such as 2.0.",
        )
        for form in FORMS
    ),
    *(
        (
            {"update.policy_loss": loss, "update.dual_clip": 3.0},
            f"update: dual_clip is part of policy_loss ppo, not of {loss}; set it to null.",
        )
        for loss in ("gspo", "cispo")
    ),
]
AGREEING: list[dict[str, Any]] = [
    {"policy.critic": "none", "advantage.estimator": "rloo", "rollout.samples_per_prompt": 2},
    {"policy.critic": "none", "advantage.estimator": "reinforce++"},
    *(
        {
            "policy.critic": "none",
            "advantage.estimator": estimator,
            "advantage.whiten_advantages": whiten,
            "rollout.samples_per_prompt": 2,
        }
        for estimator, whiten in (("dr_grpo", "none"), ("reinforce++_baseline", "round"))
    ),
    {"policy.tuning": "full", "compute.dtype": "auto"},
    {"update.minibatches": 64},
    {"update.minibatches": 65, "rollout.samples_per_prompt": 2},
    {"rollout.greedy": True},
    {"evaluate.samples_per_prompt": 8, "rollout.top_p": 0.9},
    {"update.lr_schedule": "cosine", "update.warmup_rounds": 3, "update.schedule_rounds": 4},
    {"update.warmup_rounds": 3},
    {"update.policy_loss": "ppo", "update.dual_clip": 3.0},
    {"update.policy_loss": "cispo", "update.clip_range": 1.0, "update.clip_range_high": 4.0},
    {"update.critic_warmup_rounds": 2},
    {"advantage.estimator": "spo", "advantage.memory_discount": 1.0, "policy.critic": "none"},
    {"rollout.prompt_choice": "informative", "advantage.memory_discount": 0.0},
    {"update.critic_warmup_rounds": 2, "policy.critic": "separate", "policy.tuning": "full"},
    {"advantage.missing_eos_score": -1.0},
    {"rollout.max_new_tokens": 48, "advantage.overlong_buffer": 48, "advantage.overlong_penalty": 1.0},
    {"update.likelihood_coef": 0.1},
    {"update.likelihood_coef": 0.0, "reward.correct": None},
    {"advantage.lambda_returns": 1.0, "advantage.lambda_alpha": 0.05},
    {"advantage.kl_target": 6.0, "advantage.kl_horizon": 13},
    {"advantage.kl_coef": 0.0, "advantage.kl_horizon": 1},
    *(
        {
            "update.rollout_correction": form,
            "update.rollout_correction_max": 2.0,
            "update.rollout_correction_min": low,
        }
        for form in FORMS
        for low in (None, 0.5)
    ),
]


def load(folder: Path, changes: dict[str, Any], rounds: dict[str, Any] | None = None) -> Path:
    data = deepcopy(DATA)
    for path, value in changes.items():
        section, _, setting = path.rpartition(".")
        holder = data[section] if section else data
        assert setting in holder
        holder[setting] = value
    data["rounds"] |= rounds or {}
    YAML().dump(data, folder / "params.yaml")
    load_params(folder / "params.yaml")
    return folder / "params.yaml"


def names(changes: dict[str, Any]) -> str:
    return "-".join(f"{path.split('.')[-1]}={value}" for path, value in changes.items())


@pytest.mark.parametrize(("changes", "message"), CONFLICTS, ids=[names(c) for c, _ in CONFLICTS])
def test_settings_that_exclude_each_other(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, changes)
    assert caught.value.message == f"{tmp_path / 'params.yaml'}: {message}"
    assert len(message) < 140


@pytest.mark.parametrize("changes", AGREEING, ids=names)
def test_settings_that_do_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert load(tmp_path, changes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"rollout": {"prompts_per_round": 3}}, "update.minibatches: 4 for 3 samples a round"),
        ({"advantage": {"estimator": "grpo"}}, "advantage.estimator grpo compares the responses to a prompt"),
        ({"rollout": {"greedy": True, "top_k": 5}}, "rollout: greedy takes the likeliest token"),
        ({"update": {"schedule_rounds": None}}, "update: lr_schedule linear needs schedule_rounds"),
    ],
)
def test_a_round_s_override_that_disagrees_names_the_round(
    tmp_path: Path, override: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, {}, {"r002": {"parent": "r001", **override}})
    assert caught.value.message.startswith(f"params.yaml (rounds.r002): {message}")


def test_an_override_may_mend_what_another_one_breaks(tmp_path: Path) -> None:
    load(tmp_path, {}, {"r002": {"parent": "r001", "rollout": {"prompts_per_round": 3}, "update": {"minibatches": 3}}})


def test_no_message_shows_a_list_of_components(tmp_path: Path) -> None:
    """One of them could hold a password by mistake."""
    component = {
        "type": "http", "name": "judge", "weight": 1.0, "url": "http://host/", "format": "text", "columns": [],
        "batch_size": 1, "timeout_seconds": 1.0, "retries": 0, "max_answer_bytes": 100, "token_variable": "SECRET",
    }  # fmt: skip
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, {"reward.components": [component, component]})
    assert "reward.components: " in caught.value.message
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "5", "[]", '"text"'])
def test_a_settings_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PipelineError, match=r"a\.json: "):
        read_settings(AdvantageSettings, tmp_path / "a.json")


def test_a_settings_file_with_settings_that_disagree_is_refused(tmp_path: Path) -> None:
    advantage = {**DATA["advantage"], "missing_eos_penalty": 1.0, "missing_eos_score": 1.0}
    (tmp_path / "a.json").write_text(json.dumps({"round": "r001", "advantage": advantage}))
    with pytest.raises(PipelineError, match=r"a\.json: advantage: missing_eos_penalty subtracts"):
        read_settings(AdvantageSettings, tmp_path / "a.json")
