"""`expected` and `case_column` of any type and from any source: read rightly, or refused by name."""

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompts.test_prompt_sources import jsonl, prompts
from test_rewards import rule, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.column_values import answers, text_of, truth
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.rewards.scoring import check_prompts, join_prompts, score_samples
from ppo_pipeline.rewards.types.python import PythonComponent
from ppo_pipeline.settings.reward_sections import Reward
from ppo_pipeline.tables.prompts import PROMPTS

EXACT = rule(match="exact", length_penalty=0.0)


def through_the_table(path: Path) -> pa.Table:
    """Read a source, write and read prompts.parquet, as the stages do."""
    PROMPTS.write(read_prompts(prompts(path, heldout_fraction=0.0)), path.with_name("out"))
    return PROMPTS.read(path.with_name("out"))


def hits(path: Path, *responses: str) -> list[bool]:
    """Tell of each prompt's response whether match: exact takes it."""
    table = through_the_table(path)
    ids = table.column("prompt_id").to_pylist()
    given = join_prompts(ids, ids, ids, list(responses), [[0]] * len(ids), table)
    return [reward == 1.0 for reward in EXACT.score(given)]


def rows(*expected: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "expected": value} for i, value in enumerate(expected)]


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        ([5, 2.5], ["5", "2.5"], ["5.0", "2.50"]),
        ([1.0, 3], ["1", "3"], ["1.0", "3.0"]),
        ([0.1, -0.0], ["0.1", "0"], ["0.10", "-0"]),
        (["1.0", "007"], ["1.0", "007"], ["1", "7"]),
        ([["a", "b"], ["a", "b"]], ["a", "B."], ["['a', 'b']", "a, b"]),
        ([[5, 2.5], ["x", 1.0]], ["2.5", "1"], ["5.0", "1.0"]),
        (["Paris", ["a", "b"]], ["Paris", "b"], ["['Paris']", "c"]),
        (["Paris", 5, 2.5], ["Paris", "5", "2.5"], ["paris?no", "5.0", "2.50"]),
        ([5, ["a", 6]], ["5", "6"], ["5.0", "6.0"]),
        ([2**60, 7], [str(2**60), "7"], [str(2**60 + 1), "8"]),
    ],
)
def test_jsonl_of_any_type(tmp_path: Path, expected: list[Any], right: list[str], wrong: list[str]) -> None:
    path = jsonl(tmp_path / "p.jsonl", *rows(*expected))
    assert all(hits(path, *right))
    assert not any(hits(path, *wrong))


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2)])
def test_numbers_of_a_parquet_file_are_the_digits_that_it_shows(tmp_path: Path, kind: pa.DataType) -> None:
    """0.1 as a 32-bit float is 0.10000000149 as a double; nobody answers that."""
    values = pa.array([Decimal("0.10"), Decimal("5.00"), Decimal("2.50")], pa.decimal128(5, 2)).cast(pa.string())
    column = values.cast(kind) if kind != pa.float16() else pa.array(np.array([0.1, 5, 2.5], np.float16))
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "expected": column}), tmp_path / "p.parquet")
    assert all(hits(tmp_path / "p.parquet", "0.1", "5", "2.5"))
    lists = pa.array([[v] for v in column.to_pylist()], pa.list_(kind)) if kind != pa.float16() else None
    if lists is not None:
        pq.write_table(pa.table({"prompt": ["a", "b", "c"], "expected": lists}), tmp_path / "p.parquet")
        assert all(hits(tmp_path / "p.parquet", "0.1", "5", "2.5"))


def test_whole_numbers_that_pandas_made_floats_and_a_gap_that_is_named(tmp_path: Path) -> None:
    """[5, None] of integers is [5.0, NaN] in what pandas writes."""
    column = pa.array(np.array([5.0, np.nan]))
    pq.write_table(
        pa.table({"prompt_id": ["a", "b"], "prompt": ["a", "b"], "expected": column}), tmp_path / "p.parquet"
    )
    with pytest.raises(PipelineError, match="sample 'b': its prompt's `expected` is empty"):
        hits(tmp_path / "p.parquet", "5", "5")
    pq.write_table(pa.table({"prompt": ["a"], "expected": column[:1]}), tmp_path / "p.parquet")
    assert hits(tmp_path / "p.parquet", "5") == [True]


def test_a_csv_s_answers_are_the_text_that_stands_there(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt,expected\na,5\nb,5.0\nc,"[1]"\n')
    assert hits(tmp_path / "p.csv", "5", "5.0", "[1]") == [True] * 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "is True, neither a text nor a number"),
        ({"a": 1}, "is {'a': 1}, neither"),
        ([["a"]], "holds a list within a list"),
        ([], "is empty"),
        (["a", None], "is empty"),
        (["a", " "], "is empty"),
        ("...", "is empty but for punctuation"),
        (float("nan"), "is empty"),
        (float("inf"), "is inf, no finite number"),
        ([True], "is True, neither"),
        (b"a", "is b'a', neither"),
        (datetime.date(2024, 1, 2), "is datetime.date"),
        (1e300, "is 1e.300, a number that may be written in more than one way"),
        (1e-9, "is 1e-09, a number that may be"),
    ],
)
@pytest.mark.parametrize("match", ["exact", "word", "contains"])
def test_what_is_no_answer_names_sample_and_column(value: Any, words: str, match: str) -> None:
    with pytest.raises(PipelineError, match=rf"reward 'rule': sample 's1': its prompt's `expected` {words}"):
        rule(match=match).score(samples(["a", "a"], expected=["a", value]))


@pytest.mark.parametrize(
    "expected", [[2.5, True], [True, 2.5], [5, True], [[1.5, False]], [{"a": 1}, "x"], [[["a"]], "x"], [["a"], [["b"]]]]
)
def test_types_that_a_table_would_take_for_one_another_are_refused(tmp_path: Path, expected: list[Any]) -> None:
    """Arrow makes [2.5, true] to [2.5, 1.0]."""
    with pytest.raises(PipelineError, match="'expected' mixes types"):
        read_prompts(prompts(jsonl(tmp_path / "p.jsonl", *rows(*expected)), heldout_fraction=0.0))
    other = jsonl(tmp_path / "q.jsonl", {"prompt": "a", "n": 2.5}, {"prompt": "b", "n": True})
    with pytest.raises(PipelineError, match=r"'n' mixes types.*true or false in some rows, numbers in others"):
        read_prompts(prompts(other, heldout_fraction=0.0))


def test_numpy_s_scalars_are_read_by_their_digits() -> None:
    for value, text in ((np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"), (np.int8(5), "5"), (np.float64(5.0), "5")):
        assert [text_of(answer) for answer in answers(value)] == [text]


TRUTHS = [
    (True, True), (1, True), (1.0, True), ("true", True), ("True", True), ("TRUE", True), ("yes", True), ("1", True),
    (" Yes ", True), (np.bool_(True), True), (False, False), (0, False), (0.0, False), ("false", False),
    ("False", False), ("no", False), ("NO", False), ("0", False), ("", False), (None, False), (float("nan"), False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "is_true"), TRUTHS)
def test_one_reading_of_truth(value: Any, is_true: bool) -> None:
    assert truth(value) is is_true
    settings = rule(match="exact", length_penalty=0.0, case_column="case")
    assert settings.score(samples(["CAT"], expected=["cat"], case=[value])) == [-1.0 if is_true else 1.0]


@pytest.mark.parametrize("value", ["maybe", "t", "on", "2", 2, -1, 0.5, [], [True], {"a": 1}, "falsch"])
def test_any_other_value_names_sample_and_column(value: Any) -> None:
    with pytest.raises(PipelineError, match=r"sample 's1': its prompt's `case` is .*; write true or false"):
        rule(case_column="case").score(samples(["a", "a"], expected=["a", "a"], case=["no", value]))


def test_truth_from_each_kind_of_file(tmp_path: Path) -> None:
    """The same column as JSON, as CSV, and as pandas writes truth values with a gap: 1.0, 0.0, NaN."""
    ids = ["a", "b", "c"]
    base = [{"prompt_id": i, "prompt": i, "expected": "cat"} for i in ids]
    jsonl(tmp_path / "p.jsonl", *[r | {"case": v} for r, v in zip(base, (True, False, None), strict=True)])
    (tmp_path / "p.csv").write_text("prompt_id,prompt,expected,case\na,a,cat,True\nb,b,cat,False\nc,c,cat,\n")
    table = pa.Table.from_pylist(base).append_column("case", pa.array(np.array([1.0, 0.0, np.nan])))
    pq.write_table(table, tmp_path / "p.parquet")
    settings = rule(match="exact", length_penalty=0.0, case_column="case")
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        given = join_prompts(ids, ids, ids, ["CAT"] * 3, [[0]] * 3, through_the_table(tmp_path / name))
        assert settings.score(given) == [-1.0, 1.0, 1.0], name


def test_prompts_are_checked_before_anything_is_decoded() -> None:
    talk = [[{"role": "user", "content": "q"}]] * 2
    table = pa.table(
        {"prompt_id": ["p", "q"], "messages": talk, "split": ["train"] * 2, "expected": ["a", ""], "case": ["no", "x"]}
    )
    with pytest.raises(PipelineError, match="reward 'rule': prompt 'q': its `expected` is empty"):
        check_prompts(Reward(correct=None, components=[rule()]), table)
    with pytest.raises(PipelineError, match="reward 'rule': prompt 'q': its `case` is 'x'; write true or false"):
        check_prompts(Reward(correct=None, components=[rule(case_column="case")]), table)
    check_prompts(Reward(correct=None, components=[rule(match="none")]), table)
    function = {"type": "python", "name": "mine", "weight": 1.0, "format": "text", "columns": {}, "none_as": None}
    absent = PythonComponent(**function, function="reward_functions.absent:reward")
    with pytest.raises(PipelineError, match=r"reward 'mine': .*No module named 'reward_functions\.absent'"):
        check_prompts(Reward(correct=None, components=[absent]), table)
    check_prompts(
        Reward(correct=None, components=[PythonComponent(**function, function="reward_functions.brevity:reward")]),
        table,
    )


def test_alternatives_reach_functions_as_lists_and_numbers_as_numbers(tmp_path: Path) -> None:
    table = through_the_table(jsonl(tmp_path / "p.jsonl", *rows("a", ["b", "c"])))
    assert table.column("expected").to_pylist() == [["a"], ["b", "c"]]
    table = through_the_table(jsonl(tmp_path / "p.jsonl", *rows(5, 2.5)))
    assert table.column("expected").to_pylist() == [5, 2.5]


def test_a_sum_beyond_32_bit_floats_is_named() -> None:
    parts = [rule(name=name, weight=3e38, match="none", length_penalty=1.0) for name in ("one", "two")]
    with pytest.raises(
        PipelineError, match=r"weighted sum of the rewards: sample 's0': -6e\+38 is not a finite number"
    ):
        score_samples(Reward(correct=None, components=parts), samples(["a"]))


def test_the_committed_sets_are_stored_as_they_were() -> None:
    """Their columns are texts and truth values: nothing to convert, so that prompts.parquet keeps its bytes."""
    for name in ("english", "chinese"):
        path = Path(__file__).resolve().parents[2] / "data/prompts" / f"{name}.jsonl"
        written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        table = read_prompts(prompts(path))
        for column in ("expected", "exact_case", "kind"):
            assert table.column(column).to_pylist() == [row[column] for row in written]


def test_any_column_may_hold_the_answers(tmp_path: Path) -> None:
    """Read as `expected` is: lists beside single answers, and the digits of narrow floats."""
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "a", "answer": ["x", 5]}, {"prompt": "b", "answer": "y"})
    pq.write_table(pa.table({"prompt": ["c"], "answer": pa.array([0.1], pa.float32())}), tmp_path / "q.parquet")
    for source, responses in ((path, ["5", "y"]), (tmp_path / "q.parquet", ["0.1"])):
        table = through_the_table(source)
        ids = table.column("prompt_id").to_pylist()
        given = join_prompts(ids, ids, ids, responses, [[0]] * len(ids), table)
        assert rule(match="exact", column="answer", length_penalty=0.0).score(given) == [1.0] * len(ids)
        message = r"reward 'rule': the prompts have no column 'expected'\. They have: split \(text\), answer \("
        with pytest.raises(PipelineError, match=message):
            EXACT.score(given)
    with pytest.raises(PipelineError, match="its prompt's `answer` is empty"):
        rule(match="exact", column="answer").score(samples(["a"], answer=[None]))
    assert rule(match="none", column="nowhere", length_penalty=0.0).score(samples(["a"])) == [0.0]
