"""The generated skills: the committed file is what the script writes, and what it says is true."""

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from prompts.test_prompt_sources import REPOSITORY, SETS, committed, prompts

from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.tables.prompts import PROMPTS

SCRIPT = REPOSITORY / "scripts/make_skills.py"
QUESTION = re.compile(r"Example: .+ Answer: .+\n(.+) Give the answer only\.")


def write(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_committed_skills_are_what_the_script_writes(tmp_path: Path) -> None:
    write(tmp_path / "skills.jsonl").check_returncode()
    assert (tmp_path / "skills.jsonl").read_bytes() == (SETS / "skills.jsonl").read_bytes()


def right(kind: str, question: str, answer: str) -> bool:
    """Tell whether an answer is right, from the question's words alone."""
    if kind in ("addition", "multiplication"):
        a, sign, b, result = re.fullmatch(r"(\d+) ([+x]) (\d+) = (\d+)", answer).groups()
        counted = len(range(int(a))) + len(range(int(b))) if sign == "+" else sum([int(a)] * int(b))
        return question == f"What is {a} {sign} {b}?" and counted == int(result)
    if kind == "reversal":
        (word,) = re.fullmatch(r"Spell ([a-z]+) backwards\.", question).groups()
        return all(answer[2 * i] == word[-1 - i] for i in range(len(word))) and len(answer) == 2 * len(word) - 1
    given, found = question.removeprefix("Sort by alphabet: ").removesuffix(".").split(", "), answer.split(", ")
    return Counter(given) == Counter(found) and all(a < b for a, b in itertools.pairwise(found))


def difficulty(kind: str, question: str) -> int:
    if kind == "reversal":
        return len(question.split()[1])
    if kind == "sorting":
        return question.count(",") + 1
    lengths = [len(number) for number in re.findall(r"\d+", question)]
    return max(lengths)


def test_the_committed_skills_are_sound() -> None:
    rows = committed("skills")
    PROMPTS.checked(read_prompts(prompts(SETS / "skills.jsonl")), "skills")
    assert len({row["prompt_id"] for row in rows}) == len(rows) == 1712
    assert Counter((row["kind"], row["split"]) for row in rows) == {
        (kind, split): count
        for kind in ("addition", "multiplication", "reversal", "sorting")
        for split, count in (("train", 300), ("heldout", 128))
    }
    assert len({row["kind"] for row in rows[:4]}) == 4, "any first rows are a mixture"
    for row in rows:
        (question,) = QUESTION.fullmatch(row["prompt"]).groups()
        assert right(row["kind"], question, row["expected"]), row
        assert row["difficulty"] == difficulty(row["kind"], question), row
    subjects = {split: {subject(row) for row in rows if row["split"] == split} for split in ("train", "heldout")}
    assert not subjects["train"] & subjects["heldout"]


def subject(row: dict[str, str]) -> tuple[str, frozenset[str]]:
    """Return what a task is about, whichever of its numbers or words comes first."""
    (question,) = QUESTION.fullmatch(row["prompt"]).groups()
    return row["kind"], frozenset(re.findall(r"\d+|[a-z]{3,}", question))


def test_held_out_items_depend_on_no_count_and_too_many_are_refused(tmp_path: Path) -> None:
    write("--kinds", "sorting", "--train", "5", "--heldout", "128", tmp_path / "few.jsonl").check_returncode()
    few = [json.loads(line) for line in (tmp_path / "few.jsonl").read_text().splitlines()]
    held = [row for row in committed("skills") if row["kind"] == "sorting" and row["split"] == "heldout"]
    assert [row for row in few if row["split"] == "heldout"] == held and len(few) == 133
    said = write("--kinds", "multiplication", "--train", "900", tmp_path / "many.jsonl")
    assert said.returncode == 2 and "multiplication: there are hardly more than" in said.stderr
