"""The stage `advantage` on small tables against a slow loop over samples and tokens."""

import io
import json
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from ppo_pipeline.project.paths import Paths
from ppo_pipeline.settings.learning_sections import Advantage
from ppo_pipeline.settings.stage_settings import AdvantageSettings
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import ragged
from stages import advantage

COMMITTED = YAML(typ="safe").load(Path(__file__).resolve().parents[2] / "params.yaml")["advantage"]
PROMPTS = ["p", "q", "p", "r", "q", "r", "p"]  # groups of unequal size, mixed up
LENGTHS = [3, 1, 4, 2, 5, 1, 2]
CUT = [False, True, True, False, False, True, False]
SCORES = [1.0, -2.0, 0.5, 3.0, 0.25, 2.0, -1.5]
Rows = list[list[float]]
PATHS = Paths("r001", "r000")
SAID: list[str] = []  # by the stage, each time that it ran


def settings_of(**changes: Any) -> Advantage:
    return Advantage(**{**COMMITTED, "whiten_advantages": "none", **changes})


def rows(seed: int) -> Rows:
    """Return one number per token, of which fp32 loses nothing."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=n).astype(np.float32).tolist() for n in LENGTHS]


def write_tables(critic: bool = True, seed: int = 0) -> dict[str, Rows]:
    """Write the tables of a round of 7 responses; return the numbers of reference.parquet."""
    numbers = {"policy_logprobs": rows(seed), "reference_logprobs": rows(seed + 1), "values": rows(seed + 2)}
    ids, count = [f"s{i}" for i in range(len(LENGTHS))], len(LENGTHS)
    lists = {name: ragged(np.concatenate(r), np.array(LENGTHS), pa.float32()) for name, r in numbers.items()}
    numbers["bootstrap"] = [row[:1] for row in rows(seed + 3)]
    bootstrap = [row[0] for row in numbers["bootstrap"]]
    if not critic:
        lists["values"] = bootstrap = pa.nulls(count)
    lists["entropy"] = lists["policy_logprobs"]
    REFERENCE.write(pa.table({"sample_id": ids, **lists, "bootstrap_value": bootstrap}), PATHS.reference)
    REWARDS.write(
        pa.table({"sample_id": ids, "score": SCORES, "correct": pa.nulls(len(ids), pa.bool_())}), PATHS.rewards
    )
    tokens, ones = [[1] * n for n in LENGTHS], [[1.0] * n for n in LENGTHS]
    table = {
        "sample_id": ids, "prompt_id": PROMPTS, "sample_index": range(count), "prompt_text": ["x"] * count,
        "response_text": ["y"] * count, "prompt_ids": [[1]] * count, "response_ids": tokens, "rollout_logprobs": ones,
        "kept_mass": ones, "finish_reason": ["length" if c else "stop" for c in CUT],
    }  # fmt: skip
    ROLLOUTS.write(pa.table({n: pa.array(v) for n, v in table.items()}), PATHS.rollouts)
    PROMPT_SCORES.write(PROMPT_SCORES.arrow.empty_table(), PATHS.parent_prompt_scores)
    return numbers


def run(
    s: Advantage, state: Controllers | None = None, correct: bool = False
) -> tuple[dict[str, Rows], dict, Controllers]:
    """Run the stage; return the columns of advantages.parquet, the metrics and the state that it hands on."""
    limit = None if s.overlong_buffer is None else max(LENGTHS)
    facts = {"depth": 1, "critic_alone": False, "overlong_limit": limit, "tells_correct": correct}
    settings = AdvantageSettings(round="r001", parent="r000", **facts, advantage=s)
    PATHS.settings("advantage").parent.mkdir(parents=True, exist_ok=True)
    PATHS.settings("advantage").write_text(settings.model_dump_json(by_alias=True))
    (state or Controllers()).write(PATHS.parent_state)
    said = io.StringIO()
    with redirect_stdout(said):
        advantage.run("r001")
    SAID.append(said.getvalue())
    return (
        ADVANTAGES.read(PATHS.advantages).to_pydict(),
        json.loads(PATHS.metrics("advantage").read_text()),
        Controllers.read(PATHS.controllers),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def slow_scores(s: Advantage, seen: list[float]) -> list[float]:
    """Return the scores of the round as they enter the reward; `seen` are all scores of the rounds before."""
    judged = []
    for score, cut, n in zip(SCORES, CUT, LENGTHS, strict=True):
        if cut and s.missing_eos_score is not None:
            score = s.missing_eos_score
        elif cut and s.missing_eos_penalty is not None:
            score -= s.missing_eos_penalty
        if s.overlong_buffer is not None and n > max(LENGTHS) - s.overlong_buffer:
            score -= s.overlong_penalty * (n - (max(LENGTHS) - s.overlong_buffer)) / s.overlong_buffer
        judged.append(score)
    if s.score_scaling != "none":
        everything = [*seen, *judged]
        mean = sum(everything) / len(everything)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in everything) / (len(everything) - 1))
        judged = [(x - (mean if s.score_scaling == "norm" else 0)) / deviation for x in judged]
    return [x if s.score_clip is None else min(max(x, -s.score_clip), s.score_clip) for x in judged]


def whitened(table: Rows, keep_mean: bool) -> Rows:
    tokens = [x for row in table for x in row]
    if len(tokens) == 1:
        return [[0.0]]
    mean = sum(tokens) / len(tokens)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in tokens) / (len(tokens) - 1) + 1e-8)
    return [[(x - mean) / deviation + (mean if keep_mean else 0) for x in row] for row in table]


def slow(s: Advantage, numbers: dict[str, Rows], kl_coef: float, seen: list[float]) -> dict[str, Rows | None]:
    """Return what the stage should write, sample by sample and token by token."""
    scores, rewards = slow_scores(s, seen), []
    for i, n in enumerate(LENGTHS):
        d = [p - r for p, r in zip(numbers["policy_logprobs"][i], numbers["reference_logprobs"][i], strict=True)]
        kl = {"k1": d, "k2": [x * x / 2 for x in d], "k3": [math.exp(-x) - 1 + x for x in d]}[s.kl_estimator]
        row = [-kl_coef * x for x in kl]
        if s.kl_penalty != "token":
            row = [0.0] * (n - 1) + [sum(row) / (n if s.kl_penalty == "sequence_mean" else 1)]
        rewards.append([*row[:-1], row[-1] + scores[i]])
    if s.whiten_rewards != "none":
        rewards = whitened(rewards, s.whiten_rewards == "variance")
    advantages, returns = [], []
    for i, n in enumerate(LENGTHS):
        mates = [sum(rewards[j]) for j in range(len(LENGTHS)) if PROMPTS[j] == PROMPTS[i]]
        mean = sum(mates) / len(mates)
        if s.estimator == "rloo":
            others = (sum(mates) - sum(rewards[i])) / (len(mates) - 1)
            advantages.append([sum(rewards[i]) - others] * n)
        elif s.estimator == "grpo":
            deviation = math.sqrt(sum((m - mean) ** 2 for m in mates) / (len(mates) - 1))
            advantages.append([(sum(rewards[i]) - mean) / (deviation + 1e-4)] * n)
        elif s.estimator in ("dr_grpo", "reinforce++_baseline"):
            advantages.append([sum(rewards[i]) - mean] * n)
        elif s.estimator == "reinforce++":
            advantages.append([sum(s.gamma ** (u - t) * rewards[i][u] for u in range(t, n)) for t in range(n)])
        else:
            goes_on = s.bootstrap == "always" or (s.bootstrap == "truncated" and CUT[i])
            last = numbers["bootstrap"][i][0] if goes_on else 0.0
            v = [*numbers["values"][i], last]
            delta = [rewards[i][t] + s.gamma * v[t + 1] - v[t] for t in range(n)]
            own = s.lam if s.lambda_alpha is None else max(0.0, 1 - 1 / (s.lambda_alpha * n))
            of_returns = s.lam if s.lambda_returns is None else s.lambda_returns
            row, other = (
                [sum((s.gamma * lam) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]
                for lam in (own, of_returns)
            )
            advantages.append(row)
            returns.append([a + b for a, b in zip(other, v[:-1], strict=True)])
    used = advantages
    if s.whiten_advantages == "round":
        used = whitened(advantages, keep_mean=False)
    elif s.whiten_advantages == "response":
        used = [whitened([row], keep_mean=False)[0] for row in advantages]
    return {"token_rewards": rewards, "advantages": used, "returns": returns or None}


def agrees(found: dict[str, Any], expected: dict[str, Rows | None]) -> None:
    for name, table in expected.items():
        if table is None:
            assert found[name] == [None] * len(LENGTHS)
            continue
        assert [len(row) for row in found[name]] == LENGTHS
        assert np.concatenate(found[name]) == pytest.approx(np.concatenate(table), rel=2e-6, abs=2e-6), name


ESTIMATORS = ["gae", "rloo", "grpo", "dr_grpo", "reinforce++", "reinforce++_baseline"]
WHITENED = {"whiten_advantages": "round"}
DEFINED_WITH = {"reinforce++": "round", "reinforce++_baseline": "round", "dr_grpo": "none"}
CASES: list[dict[str, Any]] = [
    *[{"kl_penalty": p, "kl_estimator": k} for p in ("token", "sequence_sum", "sequence_mean") for k in ("k1", "k3")],
    {"kl_estimator": "k2", "kl_coef": 0.7},
    {"kl_coef": 0.0},
    {"missing_eos_penalty": 1.5},
    {"missing_eos_score": -1.0},
    {"missing_eos_score": 0.0, "score_scaling": "scale"},
    {"score_scaling": "norm", "score_clip": 0.5, "missing_eos_penalty": 1.0},
    {"score_clip": 1.0},
    {"overlong_buffer": 3, "overlong_penalty": 1.5, "missing_eos_penalty": 1.0, "score_scaling": "scale"},
    {"whiten_rewards": "variance"},
    {"whiten_rewards": "mean_and_variance", **WHITENED},
    {"gamma": 0.9, "lambda": 0.8, "bootstrap": "truncated"},
    {"gamma": 0.9, "lambda": 0.8, "bootstrap": "always"},
    {"gamma": 0.5, "lambda": 1.0, **WHITENED},
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("changes", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_the_stage_is_a_slow_loop(estimator: str, changes: dict[str, Any]) -> None:
    changes = {**changes, **({"whiten_advantages": DEFINED_WITH[estimator]} if estimator in DEFINED_WITH else {})}
    s = settings_of(estimator=estimator, **changes)
    numbers = write_tables(critic=estimator == "gae")
    found, metrics, _ = run(s)
    expected = slow(s, numbers, s.kl_coef, [])
    agrees(found, expected)
    raw = slow(s.model_copy(update={"whiten_advantages": "none"}), numbers, s.kl_coef, [])
    tokens = np.concatenate(raw["advantages"])
    assert metrics["val/advantage_mean"] == pytest.approx(tokens.mean(), abs=1e-9)
    assert metrics["val/advantage_std"] == pytest.approx(tokens.std())
    assert ("val/explained_variance" in metrics) is (estimator == "gae")


@pytest.mark.parametrize(
    "changes",
    [
        {"lambda": 0.8, "lambda_returns": 1.0},
        {"lambda": 0.6, "lambda_alpha": 0.4},  # responses of 1 and 2 tokens get 0, the longest one 0.5
        {"lambda": 0.6, "lambda_alpha": 0.9, "lambda_returns": 0.3, **WHITENED},
    ],
    ids=str,
)
def test_lambdas_of_returns_and_by_length_are_a_slow_loop_s(changes: dict[str, Any]) -> None:
    s = settings_of(gamma=0.9, bootstrap="truncated", **changes)
    numbers = write_tables()
    found, metrics, _ = run(s)
    agrees(found, slow(s, numbers, s.kl_coef, []))
    values, returns = np.concatenate(numbers["values"]), np.concatenate(found["returns"])
    assert metrics["val/explained_variance"] == pytest.approx(1 - (returns - values).var() / returns.var(), abs=1e-5)


def test_each_response_may_be_whitened_by_itself() -> None:
    """One token alone, of which there are two responses, is worth 0, and the stage says so."""
    s = settings_of(estimator="gae", whiten_advantages="response")
    numbers = write_tables()
    found, _, _ = run(s)
    agrees(found, slow(s, numbers, s.kl_coef, []))
    assert [row for row, n in zip(found["advantages"], LENGTHS, strict=True) if n == 1] == [[0.0], [0.0]]
    assert "; 2 of one token or equal advantages, which whiten_advantages: response makes 0" in SAID[-1]


def test_by_minibatch_the_stage_leaves_advantages_as_they_are() -> None:
    write_tables()
    raw, _, _ = run(settings_of(whiten_advantages="none"))
    found, _, _ = run(settings_of(whiten_advantages="minibatch"))
    assert found == raw
    assert "of one token" not in SAID[-1]


def test_the_mean_penalty_for_length_is_told() -> None:
    """At most 5 tokens, of which the last 3 are punished: lengths 3, 4 and 5 lose 1, 2 and 3 thirds."""
    write_tables()
    assert "objective/overlong_penalty" not in run(settings_of())[1]
    _, metrics, _ = run(settings_of(overlong_buffer=3, overlong_penalty=2.0))
    assert metrics["objective/overlong_penalty"] == pytest.approx(-2.0 * (1 + 2 + 3) / 3 / 7)


def test_the_update_is_told_which_answers_are_right_where_it_asks() -> None:
    write_tables()
    table = pa.table({"sample_id": [f"s{i}" for i in range(len(LENGTHS))], "score": SCORES, "correct": CUT})
    REWARDS.write(table, PATHS.rewards)
    assert run(settings_of(), correct=True)[0]["correct"] == CUT
    assert run(settings_of())[0]["correct"] == [None] * len(CUT)


def test_metrics() -> None:
    """The KL is always the summed k1; the penalty is the estimator's, and the score the one before shaping."""
    numbers = write_tables()
    s = settings_of(kl_estimator="k2", score_scaling="norm", missing_eos_penalty=1.0, whiten_rewards="variance")
    found, metrics, _ = run(s)
    pairs = list(zip(numbers["policy_logprobs"], numbers["reference_logprobs"], strict=True))
    kl = [sum(p - r for p, r in zip(*pair, strict=True)) for pair in pairs]
    penalty = [-s.kl_coef * sum((p - r) ** 2 / 2 for p, r in zip(*pair, strict=True)) for pair in pairs]
    assert metrics["objective/kl"] == pytest.approx(np.mean(kl))
    assert metrics["objective/kl_coef"] == s.kl_coef
    assert metrics["objective/non_score_reward"] == pytest.approx(np.mean(penalty))
    assert metrics["objective/rlhf_reward"] == pytest.approx(np.mean(penalty) + np.mean(SCORES))
    values, returns = np.concatenate(numbers["values"]), np.concatenate(found["returns"])
    assert metrics["val/values"] == pytest.approx(values.mean())
    assert metrics["val/returns"] == pytest.approx(returns.mean(), rel=1e-5)
    assert metrics["val/explained_variance"] == pytest.approx(1 - (returns - values).var() / returns.var(), abs=1e-5)


@pytest.mark.parametrize("kl_target", [0.01, 50.0])
def test_two_rounds_hand_on_their_state(kl_target: float) -> None:
    """The second round's KL coefficient follows from the first one's KL, its scale from the scores of both."""
    s = settings_of(kl_target=kl_target, kl_horizon=70, kl_coef=0.2, score_scaling="norm", missing_eos_score=-1.0)
    seen: list[float] = []
    coef, state = 0.2, None
    for seed in (0, 10, 20):
        numbers = write_tables(seed=seed)
        found, metrics, state = run(s, state)
        agrees(found, slow(s, numbers, coef, seen))
        assert metrics["objective/kl_coef"] == pytest.approx(coef)
        coef *= 1 + min(max(metrics["objective/kl"] / kl_target - 1, -0.2), 0.2) * len(SCORES) / 70
        seen += [-1.0 if cut else score for score, cut in zip(SCORES, CUT, strict=True)]
        assert state.kl_coef == pytest.approx(coef)
        assert (state.score_count, state.score_mean) == (len(seen), pytest.approx(np.mean(seen)))
        assert state.score_variance == pytest.approx(np.var(seen))
    off = settings_of(score_scaling="none")
    _, metrics, after = run(off, state)
    assert metrics["objective/kl_coef"] == off.kl_coef
    assert after == Controllers(None, state.score_count, state.score_mean, state.score_variance)


def test_a_fixed_round_starts_from_the_settings_and_leaves_no_state() -> None:
    write_tables()
    _, _, state = run(settings_of())
    assert state == Controllers()
