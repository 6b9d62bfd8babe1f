"""The committed prompt sets: nothing held out leaks into training, the answers are right, the README counts."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

SETS = Path(__file__).resolve().parents[2] / "data" / "prompts"
NAMES = ("english", "chinese")
DIGITS = "零一二三四五六七八九十"
ZODIAC = "鼠牛虎兔龙蛇马羊猴鸡狗猪"
Row = dict[str, object]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def question(row: Row) -> str:
    """The last message: what is asked, without the worked example."""
    return row["messages"][-1]["content"] if "messages" in row else row["prompt"]


def subject(row: Row) -> object:
    """What the task is about, read from the question and the answer: equal for a commuted sum or a reversed pair."""
    kind, asked = row["kind"], question(row)
    numbers = re.findall(r"\d+", asked)
    if kind in ("sum", "bigger"):
        return tuple(sorted(numbers, key=int))
    if kind == "opposite":
        word = re.search(r"“(.)”|(?:opposite of(?: the word)?) (\w+)", asked)
        assert word, asked
        return frozenset({word[1] or word[2], row["expected"]})
    return row["expected"].lower() if kind != "colour" else asked


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_questions_are_unique(name: str) -> None:
    rows = rows_of(name)
    for values in ([row["prompt_id"] for row in rows], [question(row) for row in rows]):
        assert [value for value, times in Counter(values).items() if times > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_subject_stands_in_training(name: str) -> None:
    rows = rows_of(name)
    trained = {(row["kind"], subject(row)) for row in rows if row["split"] == "train"}
    leaks = [row["prompt_id"] for row in rows if row["split"] == "heldout" and (row["kind"], subject(row)) in trained]
    assert leaks == []


@pytest.mark.parametrize("name", NAMES)
def test_no_task_is_its_own_worked_example(name: str) -> None:
    for row in rows_of(name):
        for message in row.get("messages", [])[:-1]:
            assert not re.search(rf"\b{re.escape(row['item'].lower())}\b", message["content"].lower()), row


@pytest.mark.parametrize("kind", ["repeat", "lowercase", "uppercase"])
def test_case_tasks_answer_with_the_word_at_the_end_of_the_question(kind: str) -> None:
    change = {"repeat": str, "lowercase": str.lower, "uppercase": str.upper}[kind]
    found = [row for row in rows_of("english") if row["kind"] == kind]
    assert found
    for row in found:
        shown = re.search(r": (\w+)(?:\.|$)", question(row))
        assert shown and row["expected"] == change(shown[1]), row
        assert row["exact_case"] is (kind != "repeat"), row


@pytest.mark.parametrize("name", NAMES)
def test_computed_answers_match_the_question(name: str) -> None:
    checked: Counter[str] = Counter()
    for row in rows_of(name):
        asked, kind = question(row), str(row["kind"])
        numbers = [int(n) for n in re.findall(r"\d+", asked)]
        if kind in ("sum", "bigger"):
            assert len(numbers) == 2, row
            truth = str(sum(numbers) if kind == "sum" else max(numbers))
        elif kind == "numeral":
            truth = DIGITS[numbers[0]]
        elif kind == "zodiac":
            before = re.search(r"，(.)的后面", asked)
            assert before, row
            truth = ZODIAC[(ZODIAC.index(before[1]) + 1) % len(ZODIAC)]
        elif name == "chinese" and kind == "repeat":
            truth = asked.rsplit("：", 1)[1]
        else:
            continue
        assert row["expected"] == truth, row
        checked[kind] += 1
    assert set(checked) == ({"sum", "bigger"} if name == "english" else {"sum", "numeral", "zodiac", "repeat"})


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_counts_are_right(name: str) -> None:
    rows = rows_of(name)
    line = re.search(rf"^\| {name}\.jsonl \|(.*)\|$", (SETS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line
    tasks, heldout, kinds = [cell.strip() for cell in line[1].split("|")]
    assert int(tasks) == len(rows)
    assert int(heldout) == sum(row["split"] == "heldout" for row in rows)
    assert kinds.split(", ") == list(dict.fromkeys(row["kind"] for row in rows))
