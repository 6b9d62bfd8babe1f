"""The range of each numeric setting: generated over the classes of settings, compared with a table written here."""

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from reward_pairs import entry
from ruamel.yaml import YAML
from supervised_entries import sft_values

from ppo_pipeline.settings.params import Params
from ppo_pipeline.settings.reward_sections import component_types

DATA = YAML(typ="safe").load(Path(__file__).resolve().parents[2] / "params.yaml")
SAMPLES: dict[str, dict[str, Any]] = {
    "rule": DATA["reward"]["components"][0],
    "python": {"function": "a:b", "format": "text", "columns": {}, "none_as": 0.0},
    "model": {
        "model": "m", "revision": None, "pickled_weights": False, "input": "pair", "label": None, "output": "logit",
        "max_tokens": 9, "too_long": "error", "ensemble": None, "batch_tokens": 9, "device": "auto", "dtype": "auto",
    },
    "math": {"column": "answer", "hit": 1.0, "miss": 0.0, "cpu_seconds": 1},
    "json_schema": {"schema": {}, "hit": 1.0, "invalid": 0.5, "miss": 0.0},
    "repetition": {"unit": "words", "ngram": 1},
    "http": {
        "url": "http://host/", "format": "text", "columns": [], "batch_size": 1, "timeout_seconds": 1.0, "retries": 0,
        "max_answer_bytes": 9, "token_variable": None,
    },
}  # fmt: skip
MAPS: dict[str, dict[str, Any]] = {"preferences": {"source": "a.jsonl", "heldout_fraction": 0.1}}  # one entry of each

# (inside, outside); the limits themselves are among them.
RANGES: dict[str, tuple[list[float], list[float]]] = {
    "any": ([-1e9, 0, 1e9], []),
    "above 0": ([1e-9, 1e9], [0, -1e-9]),
    "0.0001 or more": ([1e-4, 1e9], [9e-5, 0, -1]),
    "0 or more": ([0, 10**9], [-1]),
    "1 or more": ([1, 10**9], [0, -1]),
    "a power of two": ([1, 2, 1 << 20], [0, -2, 3, 12]),
    "above 1": ([1 + 1e-9, 1e9], [1, 0, -2]),
    "0 to 1": ([0, 0.5, 1], [-1e-9, 1 + 1e-9]),
    "0 to below 1": ([0, 1 - 1e-9], [-1e-9, 1]),
    "above 0 to 1": ([1e-9, 1], [0, -1e-9, 1 + 1e-9]),
    "above 0 to below 1": ([1e-9, 1 - 1e-9], [0, 1, -1e-9]),
}
EXPECTED = {
    "any": "advantage.missing_eos_score rule.weight rule.hit rule.miss python.weight python.none_as model.weight "
    "http.weight model.label math.weight math.hit math.miss json_schema.weight json_schema.hit json_schema.invalid "
    "json_schema.miss repetition.weight",
    "above 0": "sft.alpha sft.lr sft.adam_eps sft.max_grad_norm "
    "reward_model.alpha reward_model.lr reward_model.adam_eps reward_model.max_grad_norm "
    "policy.alpha policy.value_head_std advantage.kl_target advantage.score_clip "
    "advantage.lambda_alpha advantage.overlong_penalty "
    "update.lr update.value_lr "
    "update.adam_eps update.clip_range update.clip_range_high update.target_kl update.value_clip_range "
    "update.max_grad_norm http.timeout_seconds",
    "0.0001 or more": "rollout.temperature",
    "0 or more": "sft.seed sft.weight_decay reward_model.seed reward_model.weight_decay "
    "seed compute.threads advantage.kl_coef advantage.missing_eos_penalty update.warmup_rounds "
    "update.weight_decay update.kl_loss_coef update.likelihood_coef update.value_coef update.entropy_coef "
    "evaluate.max_prompts evaluate.samples_per_prompt rollout.shard_samples evaluate.shard_samples "
    "update.critic_warmup_rounds "
    "rule.tolerance rule.length_penalty rule.max_length_penalty http.retries",
    "a power of two": "update.gradient_groups",
    "1 or more": "sft.rank sft.epochs sft.batch_size sft.microbatch_tokens sft.max_tokens "
    "reward_model.rank reward_model.epochs reward_model.batch_size reward_model.microbatch_tokens "
    "reward_model.max_tokens reward_model.members "
    "compute.workers vllm.tensor_parallel policy.rank "
    "rollout.prompts_per_round rollout.samples_per_prompt rollout.max_prompt_tokens "
    "rollout.max_new_tokens rollout.top_k rollout.batch_size reference.batch_tokens advantage.kl_horizon "
    "advantage.overlong_buffer update.average_rounds "
    "update.schedule_rounds update.epochs update.minibatches update.microbatch_tokens evaluate.max_new_tokens "
    "update.critic_warmup_epochs "
    "evaluate.batch_size model.max_tokens model.batch_tokens http.batch_size http.max_answer_bytes "
    "math.cpu_seconds repetition.ngram",
    "above 1": "update.dual_clip update.rollout_correction_max",
    "above 0 to below 1": "update.rollout_correction_min",
    "0 to 1": "prompts.heldout_fraction preferences.heldout_fraction advantage.gamma advantage.lambda "
    "advantage.lambda_returns advantage.memory_discount",
    "0 to below 1": "reward_model.dropout reward_model.warmup_ratio reward_model.adam_beta1 reward_model.adam_beta2 "
    "sft.dropout sft.warmup_ratio sft.adam_beta1 sft.adam_beta2 sft.heldout_fraction "
    "policy.dropout update.adam_beta1 update.adam_beta2",
    "above 0 to 1": "rollout.top_p rollout.min_p vllm.gpu_memory",
}
RANGE_OF = {setting: name for name, settings in EXPECTED.items() for setting in settings.split()}


def numeric(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[Any]]]:
    """Yield the name of each numeric setting, and its types."""
    for name, field in cls.model_fields.items():
        kinds = set(leaves(field.annotation))
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if kinds & {int, float}:
            yield f"{prefix}{field.alias or name}", kinds
        elif len(sections) == 1 and sections[0].__name__ not in ("Round", "Reward"):
            yield from numeric(sections[0], f"{name}.")


def leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of: float and NoneType for Annotated[float, ...] | None."""
    inner = [a for a in get_args(annotation) if isinstance(a, type) or get_args(a)]
    if not inner:
        yield annotation
    for part in inner:
        yield from leaves(part)


SETTINGS = dict(numeric(Params)) | {
    path: kinds for kind, cls in component_types().items() for path, kinds in numeric(cls, f"{kind}.")
}


def refused(setting: str, value: Any) -> bool:
    """Tell whether params.yaml with this value is refused because of this very setting."""
    data = deepcopy(DATA)
    section, _, name = setting.rpartition(".")
    if section in SAMPLES:
        component = {"type": section, "name": "c", "weight": 1.0, **SAMPLES[section], name: value}
        data["reward"] = {"components": [component], "correct": None}
    elif section in MAPS:
        data[section] = {"a": {**MAPS[section], name: value}}
    elif section == "sft":
        data["sft"] = {"chat": sft_values() | {name: value}}
    elif section == "reward_model":
        data["preferences"] = {"pairs": {"source": "p.jsonl", "heldout_fraction": 0.1}}
        data["reward_model"] = {"kind": entry(**{name: value})}
    else:
        holder = data[section] if section else data
        assert name in holder
        holder[name] = value
    try:
        Params.model_validate(data)
    except ValidationError as error:
        return any(name in item["loc"] for item in error.errors())
    return False


def test_the_table_holds_every_numeric_setting_and_no_other() -> None:
    """A new setting gets its range here too."""
    assert set(SETTINGS) == set(RANGE_OF)
    assert len(SETTINGS) == sum(len(settings.split()) for settings in EXPECTED.values())


@pytest.mark.parametrize("setting", RANGE_OF)
def test_a_setting_takes_what_is_in_its_range_and_nothing_else(setting: str) -> None:
    kinds = SETTINGS[setting]
    inside, outside = RANGES[RANGE_OF[setting]]
    whole = float not in kinds
    for value in inside:
        assert not refused(setting, int(value) if whole else value), value
    for value in outside:
        assert refused(setting, int(value) if whole else value), value
        assert whole or refused(setting, float(value)), value
    for value in (math.nan, math.inf, -math.inf, True, [1]):
        assert refused(setting, value), value
    assert refused(setting, "1") is (str not in kinds)
    assert refused(setting, 1.5) or not whole
    assert refused(setting, None) is (type(None) not in kinds)
