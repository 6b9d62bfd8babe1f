"""A reward model that is trained here scores rounds, under the real dvc: pairs, training and rewards in one graph."""

import json
from pathlib import Path
from typing import Any

import pytest
from dvc_project import ForetoldProject, Project
from reward_pairs import entry, pairs_table
from test_dvc_sources import JUDGE, clean, why

from ppo_pipeline.tables.rewards import REWARDS

pytestmark = pytest.mark.slow


def test_other_pairs_train_anew_and_score_anew_the_rounds_that_use_it(ran: Project, tmp_path: Path) -> None:
    project = ForetoldProject.copy_of(ran, tmp_path)
    write_pairs(project, 16)
    judge = JUDGE | {"name": "kind", "model": "data/reward_model/kind", "input": "chat", "ensemble": "worst"}
    judged: dict[str, Any] = {"components": [judge | {"max_tokens": 200}], "correct": None}
    project.change("preferences", {"pairs": {"source": "data/pairs/pairs.jsonl", "heldout_fraction": 0.25}})
    project.change("reward_model", {"kind": entry(members=2, epochs=1)})
    project.change("sources", {"base": "model", "kind": "data/reward_model/kind"})
    project.change("rounds", {"r001": {"parent": "r000", "reward": judged}, "r002": {"parent": "r000"}})
    assert {"preferences@pairs", "reward_model@kind", "source@kind", "reward@r001"} <= project.repro()
    assert clean(project)
    table = REWARDS.read(project.folder / "data/rounds/r001/rewards.parquet")
    assert table.column_names[3:] == ["kind", "kind_std"]
    metrics = json.loads((project.folder / "metrics/stages/r001/reward.json").read_text())
    spread = table.column("kind_std").to_numpy()
    assert metrics["objective/kind_std"] == pytest.approx(spread.mean()) and spread.min() > 0
    assert metrics["reward/kind"] == pytest.approx(table.column("score").to_numpy().mean())

    write_pairs(project, 20)
    assert {"preferences@pairs", "reward_model@kind", "source@kind", "reward@r001", "evaluate@r001"} <= set(
        why(project)
    )
    again = project.repro()
    assert {"reward_model@kind", "reward@r001", "update@r001", "evaluate@r001"} <= again
    assert not {name for name in again if name.endswith("@r002")} | {"base", "init", "rollout@r001"} & again
    assert clean(project)


def write_pairs(project: ForetoldProject, count: int) -> None:
    path = project.folder / "data/pairs/pairs.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = pairs_table(count, 0).select(["messages", "chosen", "rejected"]).to_pylist()
    lines = [{"prompt": row["messages"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
