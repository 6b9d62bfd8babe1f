"""A params.yaml that is no YAML: the message has the line to mend, shows it, and says what was expected."""

import re
from pathlib import Path

import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.yaml_file import read_map

COMMITTED = (Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8")
LIST = "a:\n  - b: 1\n"


def fault(tmp_path: Path, text: str) -> str:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError) as raised:
        read_map(tmp_path / "params.yaml", "sections")
    return str(raised.value.message)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a:\n  b: 1\n   c: 2\n", 3, "indented by 3 spaces; expected 2, as line 2"),
        ("a:\n  b: 1\n c: 2\n", 3, "indented by 1 space; expected 2, or 0"),
        ("a:\n    b: 1  # x\n\n  # y\n  c: 2\n", 5, "indented by 2 spaces; expected 4, or 0"),
        (LIST + "   c: 2\n", 3, "expected 4, or 2, or 0"),
        (LIST + "  c: 2\n", 3, "a list's entry begins with `- `; settings of the entry before it are indented by 4"),
        ("a:\n  b 1\n  c: 2\n", 2, "expected `name: value`"),
        ("a:\n  c: 2\n  b 1\n", 3, "expected `name: value`"),
        ("x: 1\na\n  b: 1\n", 2, "or `name:` above lines that are indented further"),
        ("a:\n  b:1\n  c: 2\n", 2, "expected `name: value` (a colon and a space)"),
        ("a:\n  b: 1\n\tc: 2\n", 3, "a tab"),
        ("a:\n  b: be good: now\n", 2, "put quotes around a text"),
        ("a:\n  b: {c: 1\n  d: 2\n", 2, "the '{' is not closed"),
        ("a: {b: 1}}\n", 1, "nothing is open that this '}' would close"),
        ("a: 1\nb: 'x\nc: 2\n", 2, "the quote is not closed"),
        ('a: "x\\q"\n', 1, "put the text in single quotes"),
        ("x:\n  a: 1\ny:\n  a: 1\n  b: 2\n  a: 3\n", 6, "`a` stands twice, first in line 4"),
        ("a: *x\n", 1, "begins with '*' needs quotes"),
        ("a: @x\n", 1, "begins with '@' needs quotes"),
        ("x: 1\na: {b: 2024-13-45}\n", 2, "put quotes around a text"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("a: 1\n<<<<<<< HEAD\nb: 2\n=======\nb: 3\n>>>>>>> x\n", 2, "a merge conflict"),
        ("a: 1\nb: \x01\n", 2, "a control character"),
    ],
)
def test_the_line_to_mend_is_shown_with_what_was_expected(tmp_path: Path, text: str, line: int, said: str) -> None:
    message = fault(tmp_path, text)
    assert f"params.yaml: not valid YAML in line {line}: " in message and said in message
    shown = text.splitlines()[line - 1].replace("\t", "→")
    assert message.splitlines()[1].endswith(f"{line} | {shown}") and re.fullmatch(r" +\| *\^", message.splitlines()[2])


def test_one_space_too_many_or_too_few_in_any_line_is_told_in_that_line_or_the_next(tmp_path: Path) -> None:
    # Every eleventh line of a section, since reading the file takes its time; a few of the changes are YAML too.
    lines, told = COMMITTED.splitlines(), 0
    indented = [n for n, line in enumerate(lines) if re.match(r"  +[a-z]", line)]
    for number in indented[::11]:
        for changed in (f" {lines[number]}", lines[number][1:]):
            (tmp_path / "params.yaml").write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            try:
                read_map(tmp_path / "params.yaml", "sections")
            except PipelineError as error:
                found = re.search(r"in line (\d+): indented by \d+ spaces?; expected", str(error.message))
                assert found and int(found[1]) - number in (1, 2), error.message
                assert "ruamel" not in error.message and "while " not in error.message
                told += 1
    assert told > len(indented) / 11


def test_a_password_in_the_line_is_not_shown(tmp_path: Path) -> None:
    message = fault(tmp_path, "a:\n  url: https://me:secret@host/x: y\n")
    assert "secret" not in message and "https://...@host" in message
