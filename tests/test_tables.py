"""The contracts of the Parquet tables: round trips, and a clear error for each way to break one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.contract import Contract, TableError, flat, lengths, ragged, same_order
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

LISTS = [[0.5, -1.0], [2.0]]
ROWS = {
    "prompts": {
        "prompt_id": ["a", "b"],
        "messages": [[{"role": "user", "content": "你好"}]] * 2,
        "split": ["train", "heldout"],
        "expected": ["x", None],
    },
    "rollouts": {
        "sample_id": ["a", "b"], "prompt_id": ["p", "p"], "sample_index": [0, 1], "prompt_text": ["t", "t"],
        "response_text": ["", "é"], "prompt_ids": [[1], [1]], "response_ids": [[5, 6], [7]],
        "rollout_logprobs": LISTS, "finish_reason": ["stop", "length"],
    },
    "rewards": {"sample_id": ["a", "b"], "score": [1.0, -2.0], "rule": [1.0, -2.0]},
    "reference": {
        "sample_id": ["a", "b"], "policy_logprobs": LISTS, "reference_logprobs": LISTS, "values": LISTS,
        "bootstrap_value": [0.0, 1.0],
    },
    "advantages": {"sample_id": ["a", "b"], "token_rewards": LISTS, "advantages": LISTS, "returns": LISTS},
    "evaluation": {
        "prompt_id": ["a", "b"], "prompt_text": ["t", "u"], "response_text": ["x", "y"],
        "response_ids": [[1], [2, 3]], "finish_reason": ["stop", "stop"], "score": [1.0, 0.0],
    },
}  # fmt: skip
CONTRACTS = [PROMPTS, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION]


def table(name: str, **changes: object) -> pa.Table:
    return pa.table({**ROWS[name], **changes})


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)
def test_round_trip_keeps_every_row_and_gives_the_same_bytes(contract: Contract, tmp_path: Path) -> None:
    for name in ("one", "two"):
        contract.write(table(contract.name), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = contract.read(tmp_path / "one")
    assert back.to_pydict() == ROWS[contract.name]
    for field in contract.schema:
        assert pq.read_schema(tmp_path / "one").field(field.name).metadata[b"description"]
    assert list(tmp_path.iterdir()) == [tmp_path / "one", tmp_path / "two"] or len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)
def test_a_missing_column_a_null_key_and_a_repeated_key_are_refused(contract: Contract, tmp_path: Path) -> None:
    key = contract.schema.names[0]
    for name in contract.schema.names:
        with pytest.raises(TableError, match=rf"out: column '{name}' is missing"):
            contract.write(table(contract.name).drop_columns([name]), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{key}', row 1: empty"):
        contract.write(table(contract.name, **{key: ["a", None]}), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{key}': 'a' stands in more than one row"):
        contract.write(table(contract.name, **{key: ["a", "a"]}), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("contract", "column", "values"),
    [
        (REWARDS, "score", [1.0, float("nan")]),
        (REFERENCE, "values", [[1.0, 2.0], [float("inf")]]),
        (ROLLOUTS, "rollout_logprobs", [[0.0, 0.0], [float("-inf")]]),
    ],
)
def test_numbers_that_are_not_finite_name_column_and_row(contract, column, values, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=rf"column '{column}', row 1 \('b'\): not a finite number"):
        contract.write(table(contract.name, **{column: values}), tmp_path / "out")


@pytest.mark.parametrize("contract", [ROLLOUTS, REFERENCE, ADVANTAGES], ids=lambda c: c.name)
def test_lists_of_unequal_length_name_the_sample(contract: Contract, tmp_path: Path) -> None:
    last = contract.ragged[0][-1]
    with pytest.raises(TableError, match=r"sample_id 'b': '\w+' has 1 items, '\w+' has 2"):
        contract.write(table(contract.name, **{last: [[0.0, 0.0], [0.0, 0.0]]}), tmp_path / "out")


def test_unknown_columns_and_wrong_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="unknown column 'more'"):
        ROLLOUTS.write(table("rollouts", more=[1, 2]), tmp_path / "out")
    with pytest.raises(TableError, match="column 'score'"):
        REWARDS.write(table("rewards", score=["x", "y"]), tmp_path / "out")
    with pytest.raises(TableError, match="row 1: 'test' is neither 'train' nor 'heldout'"):
        PROMPTS.write(table("prompts", split=["train", "test"]), tmp_path / "out")


def test_a_file_of_another_kind_version_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(TableError, match="no such file"):
        REWARDS.read(path)
    ADVANTAGES.write(table("advantages"), path)
    with pytest.raises(TableError, match="expected a 'rewards' table of version 1, found 'advantages'"):
        REWARDS.read(path)
    newer = Contract("advantages", 2, ADVANTAGES.schema)
    with pytest.raises(TableError, match="of version 2, found 'advantages' of version 1"):
        newer.read(path)
    pq.write_table(table("rewards"), path)
    with pytest.raises(TableError, match="found '\\?'"):
        REWARDS.read(path)


@given(st.integers(0, 400))
def test_a_damaged_file_gives_the_declared_error_and_no_other(tmp_path_factory, place: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "t.parquet"
    ADVANTAGES.write(table("advantages"), path)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) * place // 401])
    with pytest.raises(TableError, match="not a readable Parquet file"):
        ADVANTAGES.read(path)


def test_reading_some_columns_brings_the_key_along(tmp_path: Path) -> None:
    REFERENCE.write(table("reference"), tmp_path / "t")
    assert REFERENCE.read(tmp_path / "t", ["values"]).column_names == ["sample_id", "values"]


def test_ragged_flat_and_lengths_are_inverse() -> None:
    counts = np.array([2, 0, 3])
    column = ragged(np.arange(5.0), counts, pa.float32())
    assert column.to_pylist() == [[0, 1], [], [2, 3, 4]]
    made = pa.table({"k": ["a", "b", "c"], "v": column})
    assert flat(made, "v").tolist() == [0, 1, 2, 3, 4]
    assert lengths(made, "v").tolist() == [2, 0, 3]
    assert flat(made.slice(2), "v").tolist() == [2, 3, 4]


def test_same_order_names_the_first_difference() -> None:
    a, b, c = (pa.table({"k": keys}) for keys in (["a", "b"], ["a", "c"], ["a"]))
    same_order(a, a, "x and y")
    with pytest.raises(TableError, match="x and y: row 1 is 'b' in one and 'c' in the other"):
        same_order(a, b, "x and y")
    with pytest.raises(TableError, match="2 rows against 1"):
        same_order(a, c, "x and y")
