"""The schemas of the Parquet tables: round trips, and a clear error for each way to break one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ppo_pipeline.tables.preferences import PREFERENCES
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import TableError, TableSchema, flat, lengths, ragged, same_order

LISTS = [[0.5, -1.0], [2.0]]
ROWS = {
    "prompts": {
        "prompt_id": ["a", "b"],
        "messages": [[{"role": "user", "content": "你好"}]] * 2,
        "split": ["train", "heldout"],
        "expected": ["x", None],
    },
    "preferences": {
        "pair_id": ["a", "b"], "prompt_id": ["p", "q"], "messages": [[{"role": "user", "content": "你好"}]] * 2,
        "chosen": ["x", "y"], "rejected": ["y", "x"], "margin": [0.5, None], "split": ["train", "heldout"],
    },
    "rollouts": {
        "sample_id": ["a", "b"], "prompt_id": ["p", "p"], "sample_index": [0, 1], "prompt_text": ["t", "t"],
        "response_text": ["", "é"], "prompt_ids": [[1], [1]], "response_ids": [[5, 6], [7]],
        "rollout_logprobs": LISTS, "kept_mass": LISTS, "finish_reason": ["stop", "length"],
    },
    "rewards": {"sample_id": ["a", "b"], "score": [1.0, -2.0], "correct": [True, False], "rule": [1.0, -2.0]},
    "reference": {
        "sample_id": ["a", "b"], "policy_logprobs": LISTS, "reference_logprobs": LISTS, "values": LISTS,
        "bootstrap_value": [0.0, 1.0], "entropy": LISTS,
    },
    "advantages": {
        "sample_id": ["a", "b"], "token_rewards": LISTS, "advantages": LISTS, "returns": LISTS,
        "correct": [False, True],
    },
    "prompt_scores": {
        "prompt_id": ["a", "b"], "samples": [4, 1], "weight": [3.5, 1.0], "reward_mean": [0.5, -1.0],
        "judged": [3.5, 0.0], "right": [1.0, 0.0], "depth": [2, 1],
    },
    "evaluation": {
        "prompt_id": ["a", "b"], "prompt_text": ["t", "u"], "response_text": ["x", "y"],
        "response_ids": [[1], [2, 3]], "finish_reason": ["stop", "stop"], "score": [1.0, 0.0], "correct": [True, False],
    },
    "evaluation_samples": {
        "sample_id": ["a", "b"], "prompt_id": ["p", "p"], "sample_index": [0, 1], "prompt_text": ["t", "t"],
        "response_text": ["x", "y"], "response_ids": [[1], [2, 3]], "finish_reason": ["stop", "stop"],
        "vote": ["x", "y"], "score": [1.0, 0.0], "correct": [True, False], "rule": [1.0, 0.0],
    },
}  # fmt: skip
SCHEMAS = [
    PROMPTS, PREFERENCES, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION, EVALUATION_SAMPLES, PROMPT_SCORES,
]  # fmt: skip


def table(name: str, **changes: object) -> pa.Table:
    return pa.table({**ROWS[name], **changes})


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)
def test_round_trip_keeps_every_row_and_gives_the_same_bytes(schema: TableSchema, tmp_path: Path) -> None:
    for name in ("one", "two"):
        schema.write(table(schema.name), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = schema.read(tmp_path / "one")
    assert back.to_pydict() == ROWS[schema.name]
    for field in schema.arrow:
        assert pq.read_schema(tmp_path / "one").field(field.name).metadata[b"description"]
    assert list(tmp_path.iterdir()) == [tmp_path / "one", tmp_path / "two"] or len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)
def test_a_missing_column_a_null_key_and_a_repeated_key_are_refused(schema: TableSchema, tmp_path: Path) -> None:
    key = schema.arrow.names[0]
    for name in schema.arrow.names:
        with pytest.raises(TableError, match=rf"out: column '{name}' is missing"):
            schema.write(table(schema.name).drop_columns([name]), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{key}', row 1: empty"):
        schema.write(table(schema.name, **{key: ["a", None]}), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{key}': 'a' stands in more than one row"):
        schema.write(table(schema.name, **{key: ["a", "a"]}), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("schema", "column", "values"),
    [
        (REWARDS, "score", [1.0, float("nan")]),
        (REFERENCE, "values", [[1.0, 2.0], [float("inf")]]),
        (ROLLOUTS, "rollout_logprobs", [[0.0, 0.0], [float("-inf")]]),
    ],
)
def test_numbers_that_are_not_finite_name_column_and_row(schema, column, values, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=rf"column '{column}', row 1 \('b'\): not a finite number"):
        schema.write(table(schema.name, **{column: values}), tmp_path / "out")


@pytest.mark.parametrize("schema", [ROLLOUTS, REFERENCE, ADVANTAGES], ids=lambda c: c.name)
def test_lists_of_unequal_length_name_the_sample(schema: TableSchema, tmp_path: Path) -> None:
    last = schema.ragged[0][-1]
    with pytest.raises(TableError, match=r"sample_id 'b': '\w+' has 1 items, '\w+' has 2"):
        schema.write(table(schema.name, **{last: [[0.0, 0.0], [0.0, 0.0]]}), tmp_path / "out")


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
    with pytest.raises(TableError, match="expected a 'rewards' table of version 2, found 'advantages'"):
        REWARDS.read(path)
    newer = TableSchema("advantages", 4, ADVANTAGES.arrow)
    with pytest.raises(TableError, match="of version 4, found 'advantages' of version 3"):
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
    with pytest.raises(TableError, match=r"not a readable Parquet file|damaged or altered"):
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


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)
def test_an_empty_entry_names_file_column_and_row(schema: TableSchema, tmp_path: Path) -> None:
    for name in [name for name in schema.arrow.names[1:] if name not in schema.gaps]:
        values = [ROWS[schema.name][name][0], None]
        with pytest.raises(TableError, match=rf"out: column '{name}', row 1: empty"):
            schema.write(table(schema.name, **{name: values}), tmp_path / "out")


@pytest.mark.parametrize(
    ("schema", "column", "values"),
    [
        (ADVANTAGES, "advantages", [[0.5, -1.0], [None]]),
        (ROLLOUTS, "prompt_ids", [[1], [None]]),
        (ROLLOUTS, "response_ids", [[5, 6], [None]]),
    ],
)
def test_an_empty_item_of_a_list_names_column_and_row(schema, column, values, tmp_path: Path) -> None:
    """Let through, it would become NaN, and the whole column of token ids floats."""
    with pytest.raises(TableError, match=rf"out: column '{column}', row 1\b"):
        schema.write(table(schema.name, **{column: values}), tmp_path / "out")


@pytest.mark.parametrize("schema", [REWARDS, EVALUATION], ids=lambda c: c.name)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_component_that_is_not_finite_is_refused(schema: TableSchema, bad: float, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"out: column 'part', row 1\b"):
        schema.write(table(schema.name, part=[0.0, bad]), tmp_path / "out")


@pytest.mark.parametrize(
    ("schema", "column", "values"),
    [
        (REWARDS, "score", [[1.0], [2.0]]),
        (ADVANTAGES, "returns", [1.0, 2.0]),
        (REWARDS, "sample_id", [{"a": 1}, {"a": 2}]),
        (ROLLOUTS, "response_ids", [[5, 2**40], [7]]),
        (ROLLOUTS, "response_ids", [[5, 6.5], [7]]),
    ],
)
def test_a_column_of_a_wrong_type_is_named(schema: TableSchema, column: str, values: list, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=rf"out: column '{column}'"):
        schema.write(table(schema.name, **{column: values}), tmp_path / "out")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    twice = table("rewards").append_column("score", pa.array([1.0, 2.0]))
    with pytest.raises(TableError, match=r"out: .*'score'"):
        REWARDS.write(twice, tmp_path / "out")


def test_the_row_is_right_in_a_table_of_several_chunks(tmp_path: Path) -> None:
    def chunks(**changes: object) -> pa.Table:
        return pa.concat_tables([table("advantages"), table("advantages", sample_id=["c", "d"], **changes)])

    with pytest.raises(TableError, match=r"column 'advantages', row 3 \('d'\)"):
        ADVANTAGES.write(chunks(advantages=[[0.5, -1.0], [float("nan")]]), tmp_path / "out")
    with pytest.raises(TableError, match=r"sample_id 'd': 'token_rewards' has 1 items, 'advantages' has 2"):
        ADVANTAGES.write(chunks(advantages=LISTS[:1] * 2), tmp_path / "out")
    ADVANTAGES.write(chunks(), tmp_path / "chunks")
    ADVANTAGES.write(chunks().combine_chunks(), tmp_path / "whole")
    assert (tmp_path / "chunks").read_bytes() == (tmp_path / "whole").read_bytes()


def test_columns_come_in_the_contract_s_order_and_no_row_is_a_table_too(tmp_path: Path) -> None:
    ADVANTAGES.write(table("advantages").select([2, 0, 4, 3, 1]), tmp_path / "order")
    ADVANTAGES.write(table("advantages"), tmp_path / "same")
    assert (tmp_path / "order").read_bytes() == (tmp_path / "same").read_bytes()
    ADVANTAGES.write(ADVANTAGES.arrow.empty_table(), tmp_path / "none")
    assert ADVANTAGES.read(tmp_path / "none").schema.equals(ADVANTAGES.arrow)


def test_a_refused_table_leaves_the_old_file(tmp_path: Path) -> None:
    REWARDS.write(table("rewards"), tmp_path / "out")
    good = (tmp_path / "out").read_bytes()
    with pytest.raises(TableError):
        REWARDS.write(table("rewards", score=[1.0, None]), tmp_path / "out")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [good]


def test_damage_within_the_pages_and_the_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    ADVANTAGES.write(table("advantages"), path)
    good = path.read_bytes()
    path.write_bytes(good[:4] + bytes(200) + good[204:])
    with pytest.raises(TableError, match=r"t\.parquet: damaged"):
        ADVANTAGES.read(path)
    metadata = {b"ppo_pipeline.table": b"\xff", b"ppo_pipeline.version": b"2"}
    pq.write_table(table("advantages").replace_schema_metadata(metadata), path)
    with pytest.raises(TableError, match=r"t\.parquet: expected a 'advantages' table"):
        ADVANTAGES.read(path)


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 20))
def test_ragged_lists_come_back_from_any_slice(counts: list[int], start: int) -> None:
    column = ragged(np.arange(sum(counts)), np.array(counts, dtype=int), pa.int32())
    numbers = iter(range(sum(counts)))
    expected = [[next(numbers) for _ in range(count)] for count in counts]
    part = pa.table({"v": column}).slice(start)
    assert part.column("v").to_pylist() == expected[start:]
    assert flat(part, "v").tolist() == [n for row in expected[start:] for n in row]
    assert lengths(part, "v").tolist() == counts[start:]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)
def test_a_flipped_bit_gives_the_declared_error_or_the_same_rows(schema: TableSchema, tmp_path: Path) -> None:
    """Same rows: a bit of the checksum's own name alone."""
    schema.write(table(schema.name, **({"part": [1.0, 2.0]} if schema is REWARDS else {})), tmp_path / "t")
    good = (tmp_path / "t").read_bytes()
    rows = schema.read(tmp_path / "t")
    refused = 0
    for place in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place // 3 % 8
        (tmp_path / "t").write_bytes(damaged)
        try:
            assert schema.read(tmp_path / "t").equals(rows), place
        except TableError:
            refused += 1
    assert refused >= len(range(0, len(good), 3)) - 7


def test_every_flipped_bit_of_the_numbers_is_refused(tmp_path: Path) -> None:
    """Random numbers do not compress: most of the file is their pages, where nothing but the checksum could tell."""
    numbers = np.random.default_rng(0).normal(size=500)
    REWARDS.write(
        pa.table({"sample_id": [f"s{i}" for i in range(500)], "score": numbers, "correct": [True] * 500}),
        tmp_path / "t",
    )
    good = (tmp_path / "t").read_bytes()
    start = good.index(numbers[:4].tobytes()) if numbers[:4].tobytes() in good else len(good) // 3
    for place in range(start, start + 2000, 17):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "t").write_bytes(damaged)
        with pytest.raises(TableError, match="damaged"):
            REWARDS.read(tmp_path / "t")


def test_a_component_s_name_is_checked_too_and_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    REWARDS.write(table("rewards", part=[0.0, 1.0]), tmp_path / "t")
    good = (tmp_path / "t").read_bytes()
    place = good.index(b"part", good.index(b"score"))
    (tmp_path / "t").write_bytes(good[:place] + b"tarp" + good[place + 4 :])
    with pytest.raises(TableError, match=r"t: damaged or altered since it was written"):
        REWARDS.read(tmp_path / "t")
    metadata = {b"ppo_pipeline.table": b"rewards", b"ppo_pipeline.version": b"2"}
    pq.write_table(table("rewards").replace_schema_metadata(metadata), tmp_path / "t")
    assert REWARDS.read(tmp_path / "t").to_pydict() == ROWS["rewards"]


def test_columns_of_any_type_that_a_prompt_set_brings_read_back(tmp_path: Path) -> None:
    """Parquet has no seconds and no such lists: some come back as other types."""
    more = {
        "when": pa.array([1, 2], pa.timestamp("s")),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "large": pa.array([["a"], ["b"]], pa.large_list(pa.large_string())),
        "nested": pa.array([{"a": [1]}, {"a": [2]}]),
        "date": pa.array([1, 2], pa.date64()),
        "nothing": pa.nulls(2),
    }
    PROMPTS.write(table("prompts", **more), tmp_path / "t")
    found = PROMPTS.read(tmp_path / "t")
    assert found.column("nested").to_pylist() == [{"a": [1]}, {"a": [2]}]
    assert set(more) <= set(found.column_names)
