"""`ppo-pipeline judge` through a pipe: what is shown, what each answer keeps, going on, going back, agreement."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ppo_pipeline.cli import judge as judging
from ppo_pipeline.cli.judged_pair import pairs_in
from ppo_pipeline.cli.judgements import Judgements
from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.preferences import read_preferences
from ppo_pipeline.settings.preference_sections import Preferences

FILE, OUT = Path("pairs.jsonl"), Path("pairs.judged.jsonl")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write([pair(i) for i in range(4)])


def pair(i: int, **more: Any) -> dict[str, Any]:
    """Return an undecided pair as `ppo-pipeline pairs --judge` writes it: the first answer has the higher score."""
    return {
        "prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"ask {i}"}],
        "responses": [f"high {i}", f"low {i}"], "rounds": ["r001", "r002"],
        "sample_ids": [f"r001-p{i}-0", f"r002-p{i}-0"], "scores": {"score": [2.0, 1.0], "same": [0.0, 0.0]}, **more,
    }  # fmt: skip


def write(rows: list[dict[str, Any]], path: Path = FILE) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def judge(*answers: str, more: tuple[str, ...] = (), code: int = 0) -> str:
    result = CliRunner().invoke(main, ["judge", str(FILE), *more], input="".join(f"{word}\n" for word in answers))
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result.output


def kept() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()]


def shown(said: str) -> Iterator[tuple[str, str, str]]:
    """Yield the prompt and both answers of each pair that was shown."""
    lines = [line.split("\t") for line in said.splitlines() if "\t" in line]
    texts = [line[1] for line in lines if line[0] in ("user", "1", "2")]
    yield from zip(texts[::3], texts[1::3], texts[2::3], strict=True)


def test_a_choice_is_of_the_answer_that_stood_there_with_all_that_is_known_of_it() -> None:
    """Whether by 1 or by 2: the lists begin with the chosen answer's, in whichever order the answers were shown."""
    said = judge("1", "2", "1", "2")
    for row, (prompt, first, second), word in zip(kept(), shown(said), "1212", strict=True):
        assert row["prompt"] == [{"role": "user", "content": prompt}]
        assert (row["chosen"], row["rejected"]) == ((first, second) if word == "1" else (second, first))
        assert row["shown"] == int(word)
        high = row["chosen"].startswith("high")
        assert row["rounds"] == (["r001", "r002"] if high else ["r002", "r001"])
        assert row["sample_ids"][0].startswith(row["rounds"][0])
        assert row["scores"]["score"] == ([2.0, 1.0] if high else [1.0, 2.0])
        assert "responses" not in row
    assert "4 of 4 pairs judged, 0 of them ties; of the others answer 1 was chosen in 2 of 4" in said


def test_the_order_shown_is_chance_and_does_not_follow_the_file() -> None:
    write([pair(i) for i in range(200)])
    orders = [list(shown(judge(*["s"] * 200))) for _ in range(2)]
    assert orders[0] == orders[1]
    assert 70 < sum(first.startswith("high") for _, first, _ in orders[0]) < 130
    write([pair(i, responses=[f"low {i}", f"high {i}"]) for i in range(200)])
    assert list(shown(judge(*["s"] * 200))) == orders[0]
    assert not OUT.exists(), "what is skipped is kept nowhere, and comes again"


def test_it_goes_on_where_it_stopped_and_a_tie_is_not_asked_again() -> None:
    assert [text for text, _, _ in shown(judge("1", "tie", "q"))] == ["ask 0", "ask 1", "ask 2"]
    assert kept()[1]["tie"] is True and kept()[1]["responses"] == ["high 1", "low 1"] and "chosen" not in kept()[1]
    assert [text for text, _, _ in shown(judge("skip"))] == ["ask 2", "ask 3"]  # the end of the pipe is quit
    assert [text for text, _, _ in shown(judge("2", "2"))] == ["ask 2", "ask 3"]
    assert "4 of 4 pairs judged, 1 of them ties" in judge()


def test_back_takes_back_the_last_choice_of_this_start_and_of_earlier_ones() -> None:
    first = [text for text, _, _ in shown(judge("1", "s", "back", "back", "2", "s", "q"))]
    assert first == ["ask 0", "ask 1", "ask 2", "ask 1", "ask 0", "ask 1", "ask 2"]
    assert [row["shown"] for row in kept()] == [2]
    assert [text for text, _, _ in shown(judge("back", "1", "1", "q"))] == ["ask 1", "ask 0", "ask 1", "ask 2"]
    assert [(row["prompt"][0]["content"], row["shown"]) for row in kept()] == [("ask 0", 1), ("ask 1", 1)]
    judge("b", "b", "b", "q")
    assert OUT.read_bytes() == b""


def test_each_choice_is_on_disk_before_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def ask(*_: Any) -> str:
        counts.append(len(kept()) if OUT.exists() else 0)
        if len(counts) == 4:
            raise RuntimeError("killed")
        return "1"

    monkeypatch.setattr(judging, "ask", ask)
    with pytest.raises(RuntimeError):
        CliRunner().invoke(main, ["judge", str(FILE)], catch_exceptions=False)
    assert counts == [0, 1, 2, 3] and len(kept()) == 3


def test_a_line_left_half_is_dropped_and_another_writer_is_noticed() -> None:
    judge("1", "1", "q")
    whole = OUT.read_bytes()
    OUT.write_bytes(whole + whole[:30])
    judge("q")
    assert OUT.read_bytes() == whole
    judgements = Judgements(OUT)
    with OUT.open("ab") as other:
        other.write(whole)
    with pytest.raises(PipelineError, match="changed by another process"):
        judgements.add({"pair_id": "x"})
    assert "row 3: no choice of" in judge("q", code=1)


def test_the_stage_reads_the_choices_and_counts_the_ties() -> None:
    judge("1", "t", "2", "1")
    table, ties = read_preferences(Preferences(source=str(OUT), heldout_fraction=0.0), "mine", False)
    assert ties == 1
    assert [row["chosen"] for row in table.to_pylist()] == [row["chosen"] for row in kept() if "chosen" in row]
    assert table.column("pair_id").to_pylist() == [row["pair_id"] for row in kept() if "chosen" in row]
    with pytest.raises(PipelineError, match=r"pairs\.jsonl, row 1: not decided; `ppo-pipeline judge`"):
        read_preferences(Preferences(source=str(FILE), heldout_fraction=0.0), "mine", False)


def test_agreement_with_a_reward() -> None:
    words = ["1" if p.shown[0].startswith("high") else "2" for p in pairs_in(FILE)]
    words[1] = "2" if words[1] == "1" else "1"  # against the score
    words[3] = "t"
    assert "score agrees in 2 of 3 pairs (67 %)" in judge(*words, more=("--compare", "score"))
    assert "same: no decided pair to compare with, 3 with equal scores left out" in judge(more=("--compare", "same"))
    assert "has no scores 'scor'. Did you mean 'score'" in judge(more=("--compare", "scor"), code=1)


def test_what_is_no_answer_and_what_is_no_pair_are_told() -> None:
    assert "'3' is none of the keys" in judge("3", "q")
    assert not OUT.exists()
    for row, message in (
        (pair(0, responses=["one"]), "row 1: neither `chosen` and `rejected` nor two `responses`"),
        (pair(0, responses=["a", "a"]), "row 1: equal answers"),
        (pair(0, responses=["a", " "]), "row 1: empty answer"),
    ):
        write([row])
        assert message in judge(code=1)
    write([pair(0)])
    assert "must be another file" in judge(more=("--out", str(FILE)), code=1)


def test_decided_pairs_and_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decided file can be judged anew; on a terminal a model's escape sequence is shown and not obeyed."""
    write([{"prompt": "q", "chosen": "[red]\x1b[31m", "rejected": "b", "margin": 2.0, "by": "score"}])
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = judge("t")
    assert "\\x1b[31m" in said and "[red]" in said and "\x1b[31m" not in said
    (row,) = kept()
    assert row["tie"] is True and not {"margin", "by", "chosen"} & set(row)
