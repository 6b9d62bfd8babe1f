"""The gold reward of params/rlhf.yaml, by hand."""

import json
from pathlib import Path

import pytest

from reward_functions.courtesy import courtesy, reward

PROMPTS = Path(__file__).resolve().parents[2] / "data" / "prompts" / "requests.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("...", 0.0),
        ("No.", 1.0),  # short alone
        ("Thank you for the cake!", 2.5),  # one polite word
        ("Thank you, I am glad of the cake. Thank you!", 3.0),  # two different ones
        ("Please please please bring cakes.", 2.5),  # the same one three times; a plural is on the subject
        ("Pleased with the cakewalk.", 1.0),  # parts of words are neither
        ("Sorry, thanks: cake " + "so " * 22 + "good", 3 - 1 / 35),  # 26 words
        ("cake " * 60, 1.0),  # long
        ("cake " * 100, 1.0),
    ],
)
def test_courtesy_by_hand(text: str, expected: float) -> None:
    assert courtesy(text, "cake") == pytest.approx(expected)


def test_each_message_has_its_own_subject() -> None:
    assert reward(["", ""], ["tea", "tea"], subject=["tea", "dog"], aim=["a", "b"]) == [2.0, 1.0]


def test_prompts_name_their_subject_and_no_held_out_one_is_trained_on() -> None:
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert all(row["subject"] in row["prompt"] for row in rows)
    train, heldout = ({row["prompt"] for row in rows if row["split"] == split} for split in ("train", "heldout"))
    assert (len(train), len(heldout)) == (1000, 256) and not train & heldout
