"""What rewards read of the prompts is checked before a model is loaded or a response scored."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stage_runs import Stages

from ppo_pipeline.tables.prompts import PROMPTS


@pytest.fixture
def project(tmp_path: Path) -> Stages:
    def change(params: Any) -> None:
        params["rollout"]["prompts_per_round"] = 1
        params["reward"]["components"][0]["case_column"] = "exact_case"

    return Stages(tmp_path, change)


def spoil(project: Stages, split: str, column: str, value: Any) -> str:
    """Give the last prompt of a split another value in this column; return its id."""
    path = project.folder / "data/prompts.parquet"
    table = PROMPTS.read(path)
    rows = table.to_pylist()
    row = [row for row in rows if row["split"] == split][-1]
    row[column] = value
    values = pa.array([str(each[column]) for each in rows])
    PROMPTS.write(table.set_column(table.column_names.index(column), column, values), path)
    return str(row["prompt_id"])


def test_evaluate_names_a_heldout_prompt_before_it_loads_the_policy(project: Stages) -> None:
    """There is no policy yet: r000 is not made."""
    name = spoil(project, "heldout", "exact_case", "maybe")
    with pytest.raises(AssertionError, match=rf"reward 'answer': prompt '{name}': its `exact_case` is 'maybe'; write"):
        project.run("baseline")


def test_reward_names_a_training_prompt_of_a_later_round(project: Stages) -> None:
    """There are no rollouts yet."""
    name = spoil(project, "train", "expected", " ")
    with pytest.raises(AssertionError, match=rf"reward 'answer': prompt '{name}': its `expected` is empty"):
        project.run("reward", "r001")
