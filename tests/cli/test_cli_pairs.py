"""`ppo-pipeline pairs` on small rounds that were written by hand; what it writes is read by the stage `preferences`."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.prompts.preferences import read_preferences
from ppo_pipeline.settings.preference_sections import Preferences
from ppo_pipeline.tables.evaluation import EVALUATION_SAMPLES
from ppo_pipeline.tables.preferences import PREFERENCES
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
ROUNDS = "\nrounds:\n  r001: {parent: r000}\n  r002: {parent: r001}\n"
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = COMMITTED.read_text(encoding="utf-8").split("\nrounds:")[0]
    Path("params.yaml").write_text(head + ROUNDS, encoding="utf-8")
    messages = {name: [SYSTEM, {"role": "user", "content": f"ask {name}"}] for name in ("p", "q", "r")}
    splits = ["train", "train", "heldout"]
    PROMPTS.write(
        pa.table({"prompt_id": [*messages], "messages": [*messages.values()], "split": splits}),
        Path("data/prompts.parquet"),
    )
    write_round("r001", p=[("best", 2.0, 1.0), ("good", 1.5, 0.0), ("good", 1.5, 0.0), ("bad", -1.0, 1.0), (" ", 0, 0)],
                q=[("alone", 1.0, 1.0)])  # fmt: skip
    write_round("r002", p=[("new", 1.0, 0.5), ("best", 2.0, 1.0)], q=[("second", 1.0, 0.0)])


def texts(**answers: list[tuple[str, float, float]]) -> dict[str, Any]:
    rows = [(prompt, i, text) for prompt, given in answers.items() for i, (text, _, _) in enumerate(given)]
    return {
        "prompt_id": [prompt for prompt, _, _ in rows],
        "sample_index": [i for _, i, _ in rows],
        "prompt_text": [f"<s>Be brief.<u>ask {prompt}<a>" for prompt, _, _ in rows],
        "response_text": [text for _, _, text in rows],
        "response_ids": [[2]] * len(rows),
        "finish_reason": ["stop"] * len(rows),
    }


def scores(**answers: list[tuple[str, float, float]]) -> dict[str, Any]:
    given = [each for of in answers.values() for each in of]
    correct = pa.nulls(len(given), pa.bool_())
    return {"score": [float(s) for _, s, _ in given], "correct": correct, "near": [float(n) for _, _, n in given]}


def write_round(name: str, **answers: list[tuple[str, float, float]]) -> None:
    columns = texts(**answers)
    ids = [f"{name}-{p}-{i}" for p, i in zip(columns["prompt_id"], columns["sample_index"], strict=True)]
    more = {"prompt_ids": [[1]] * len(ids), "rollout_logprobs": [[-1.0]] * len(ids), "kept_mass": [[1.0]] * len(ids)}
    ROLLOUTS.write(pa.table({"sample_id": ids, **columns, **more}), Path("data/rounds", name, "rollouts.parquet"))
    REWARDS.write(pa.table({"sample_id": ids, **scores(**answers)}), Path("data/rounds", name, "rewards.parquet"))


def write_eval_samples(name: str, **answers: list[tuple[str, float, float]]) -> None:
    columns = texts(**answers)
    ids = [f"{p}-{i}" for p, i in zip(columns["prompt_id"], columns["sample_index"], strict=True)]
    table = pa.table({"sample_id": ids, **columns, "vote": columns["response_text"], **scores(**answers)})
    EVALUATION_SAMPLES.write(table, Path("data/rounds", name, "eval_samples.parquet"))


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["pairs", *arguments])
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result.output


def made(*arguments: str, out: str = "data/pairs/pairs.jsonl") -> list[dict[str, Any]]:
    run(*arguments, "--out", out, "--overwrite")
    return [json.loads(line) for line in Path(out).read_text(encoding="utf-8").splitlines()]


def chosen_and_rejected(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["chosen"], row["rejected"]) for row in rows]


def test_all_pairs_of_one_round_with_where_they_came_from() -> None:
    rows = made("r001")
    assert chosen_and_rejected(rows) == [("best", "good"), ("best", "bad"), ("good", "bad")]
    assert rows[0] == {
        "prompt_id": "p", "prompt": [SYSTEM, {"role": "user", "content": "ask p"}], "chosen": "best",
        "rejected": "good", "margin": 0.5, "by": "score", "rounds": ["r001", "r001"],
        "sample_ids": ["r001-p-0", "r001-p-1"], "scores": {"score": [2.0, 1.5], "near": [1.0, 0.0]},
    }  # fmt: skip


def test_what_is_left_out_is_counted_and_nothing_is_overwritten() -> None:
    said = run("r001", "r002")
    counts = {text.split(" ", 1)[1]: int(text.split(" ")[0]) for text in said.split("Left out:\n")[1].splitlines()[:3]}
    assert counts == {  # best of r002 and the second good; alone and second are worth the same
        "answers equal to another of their prompt": 2, "empty answers": 1, "pairs with equal scores": 1,
    }  # fmt: skip
    assert "6 pairs of 1 prompts" in said
    before = Path("data/pairs/pairs.jsonl").read_bytes()
    assert "exists already" in run("r001", code=1)
    assert Path("data/pairs/pairs.jsonl").read_bytes() == before


def test_samples_of_several_rounds_are_taken_together_and_a_component_may_decide() -> None:
    by_near = chosen_and_rejected(made("r001", "r002", "--by", "near"))
    assert ("alone", "second") in by_near and ("bad", "new") in by_near and ("best", "bad") not in by_near
    (row,) = [row for row in made("r001", "r002") if {row["chosen"], row["rejected"]} == {"new", "bad"}]
    assert (row["rounds"], row["sample_ids"]) == (["r002", "r001"], ["r002-p-0", "r001-p-3"])
    assert (row["margin"], row["scores"]["near"]) == (2.0, [0.5, 1.0])


def test_min_gap_and_per_prompt() -> None:
    assert chosen_and_rejected(made("r001", "--min-gap", "2.5")) == [("best", "bad"), ("good", "bad")]
    names = {"best": "r001-p-0", "good": "r001-p-1", "bad": "r001-p-3", "new": "r002-p-0"}

    def digest(pair: tuple[str, str]) -> str:
        rounds = sorted(f"{names[text][:4]}/{names[text]}" for text in pair)
        return hashlib.sha256(" ".join(rounds).encode()).hexdigest()

    everything = [*combinations(("best", "good", "new", "bad"), 2)]
    for most in (1, 2, 4):
        wanted = sorted(sorted(everything, key=digest)[:most])
        assert sorted(chosen_and_rejected(made("r001", "r002", "--per-prompt", str(most)))) == wanted
    later = write_and_make_in_other_order()
    assert later == sorted(sorted(everything, key=digest)[:2])


def write_and_make_in_other_order() -> list[tuple[str, str]]:
    """Return two pairs of the rounds the other way round; `best` is in both, so that it is taken from r001 alone."""
    write_round("r002", p=[("new", 1.0, 0.5)])
    return sorted(chosen_and_rejected(made("r002", "r001", "--per-prompt", "2")))


def test_heldout_answers_only_when_asked_for() -> None:
    write_eval_samples("r001", r=[("yes", 1.0, 0.0), ("no", 0.0, 0.0)])
    write_eval_samples("r000", r=[("maybe", 0.5, 0.0)])
    assert "add --heldout" in run("r000", code=1)
    rows = [row for row in made("r000", "r001", "--heldout") if row["prompt_id"] == "r"]
    assert chosen_and_rejected(rows) == [("yes", "maybe"), ("maybe", "no"), ("yes", "no")]
    assert (rows[0]["rounds"], rows[0]["sample_ids"]) == (["r001", "r000"], ["r-0", "r-0"])
    assert all(row["prompt_id"] != "r" for row in made("r001"))


def test_a_prompt_that_reads_otherwise_now_is_left_out() -> None:
    table = PROMPTS.read(Path("data/prompts.parquet"))
    other = [[SYSTEM, {"role": "user", "content": "another"}], *table.column("messages").to_pylist()[1:]]
    PROMPTS.write(table.set_column(1, "messages", pa.array(other)), Path("data/prompts.parquet"))
    said = run("r001", code=1)
    assert "no pairs of 6 samples" in said and "5 answers to prompts that prompts.parquet has otherwise now" in said


def test_what_is_not_there_is_named() -> None:
    assert "no round 'r02'. Did you mean 'r002'" in run("r02", code=1)
    assert "no score or component 'nera'. Did you mean 'near'" in run("r001", "--by", "nera", code=1)
    assert "call it .jsonl" in run("r001", "--out", "x.csv", code=1)
    Path("data/rounds/r002/rewards.parquet").unlink()
    assert "r002/rewards.parquet: no such file" in run("r001", "r002", code=1)
    rows = made("r001", "r002", "--judge", out="data/judge/pairs.jsonl")  # which needs no score
    assert [row["responses"] for row in rows if row["prompt_id"] == "q"] == [["alone", "second"]]
    assert not any(name in row for row in rows for name in ("chosen", "rejected", "margin", "by"))


def test_rounds_that_were_scored_with_other_settings_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {
        name: {"reward.components[0].name": "near", "reward.components[0].hit": 1.0,
               "reward.components[0].weight": weight, "seed": 0}
        for name, weight in (("r001", 1.0), ("r002", 0.5))
    }  # fmt: skip
    monkeypatch.setattr("ppo_pipeline.cli.pair_samples.settings_of", lambda _, name: ran[name])
    said = run("r001", "r002", code=1)
    assert "r001 and r002 were scored with other settings, reward.components[0].weight: 1.0 and 0.5" in said
    assert made("r001", "r002", "--by", "near"), "a component is the same at any weight"
    ran["r002"]["reward.components[0].hit"] = 2.0
    assert "reward.near.hit: 1.0 and 2.0" in run("r001", "r002", "--by", "near", "--overwrite", code=1)


def test_the_stage_reads_what_was_written() -> None:
    rows = made("r001", "r002")
    settings = Preferences(source="data/pairs", heldout_fraction=0.0)
    table, ties = read_preferences(settings, "mine", False)
    found = PREFERENCES.checked(table, "here").to_pylist()
    assert ties == 0
    for name in ("chosen", "rejected", "margin", "rounds", "sample_ids", "scores", "by"):
        assert [row[name] for row in found] == [row[name] for row in rows], name
    assert [row["messages"] for row in found] == [row["prompt"] for row in rows]
    assert {row["source_prompt_id"] for row in found} == {"p"}
