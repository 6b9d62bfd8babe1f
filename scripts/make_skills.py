"""Write data/prompts/skills.jsonl: four generated skills with checkable answers, or a set of some of them.

    python scripts/make_skills.py
    python scripts/make_skills.py --kinds addition --train 1500 --heldout 500 addition.jsonl

The same bytes at each run. Each prompt holds one worked example. No held-out question stands in a training prompt, in
whatever order its numbers or words.
"""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import prompt_words as words

TARGET = Path(__file__).resolve().parent.parent / "data" / "prompts" / "skills.jsonl"
NOUNS = [word for word in words.NOUNS if 3 <= len(word) <= 8]
LETTERS = "abcdefghijklmnoprstuvwy"
VOWELS = "aeiou"

Item = tuple[str, str, int]  # question, answer, difficulty


def addition(rng: random.Random) -> Item:
    """Return a sum of two numbers of d digits each; the difficulty is d, 1 to 3."""
    digits = rng.randint(1, 3)
    a, b = (rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
    return f"What is {a} + {b}?", f"{a} + {b} = {a + b}", digits


def multiplication(rng: random.Random) -> Item:
    """Return a product; the difficulty is 1 for factors up to 9, 2 where one has two digits."""
    a, b = rng.randint(2, 9), rng.randint(2, 99)
    a, b = (a, b) if rng.random() < 0.5 else (b, a)
    return f"What is {a} x {b}?", f"{a} x {b} = {a * b}", 1 if max(a, b) < 10 else 2


def reversal(rng: random.Random) -> Item:
    """Return a made-up word to spell backwards, letter by letter; the difficulty is its length, 3 to 8."""
    length = rng.randint(3, 8)
    word = "".join(rng.choice(VOWELS if place % 2 else LETTERS) for place in range(length))
    return f"Spell {word} backwards.", "-".join(reversed(word)), length


def sorting(rng: random.Random) -> Item:
    """Return three or four words to put in alphabetical order; the difficulty is their number."""
    count = rng.randint(3, 4)
    chosen = rng.sample(NOUNS, count)
    return f"Sort by alphabet: {', '.join(chosen)}.", ", ".join(sorted(chosen)), count


KINDS: dict[str, tuple[Callable[[random.Random], Item], str]] = {
    "addition": (addition, "What is 47 + 85? Answer: 47 + 85 = 132"),
    "multiplication": (multiplication, "What is 12 x 12? Answer: 12 x 12 = 144"),
    "reversal": (reversal, "Spell house backwards. Answer: e-s-u-o-h"),
    "sorting": (sorting, "Sort by alphabet: table, house, piano. Answer: house, piano, table"),
}


def rows_of(kind: str, train: int, heldout: int) -> Iterator[dict[str, object]]:
    """Yield so many different tasks of a kind; the held-out ones are drawn first, so that they depend on no count."""
    make, example = KINDS[kind]
    rng = random.Random(kind)  # of a text, the same on every machine
    seen: set[str] = set()
    for _ in range(100 * (heldout + train)):
        question, answer, difficulty = make(rng)
        subject = " ".join(sorted(re.findall(r"\w+", question)))  # 2 x 3 is no other product than 3 x 2
        if subject in seen:
            continue
        number = len(seen)
        if number == heldout + train:
            return
        split = "heldout" if number < heldout else "train"
        yield {
            "prompt_id": f"{kind}-{number:04d}",
            "prompt": f"Example: {example}\n{question} Give the answer only.",
            "expected": answer,
            "kind": kind,
            "difficulty": difficulty,
            "split": split,
        }
        seen.add(subject)
    raise click.UsageError(f"{kind}: there are hardly more than {len(seen)} different ones; ask for fewer")


@click.command()
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Which, with commas.")
@click.option("--train", default=300, show_default=True, help="Training prompts of each kind.")
@click.option("--heldout", default=128, show_default=True, help="Held-out prompts of each kind.")
@click.argument("target", type=click.Path(path_type=Path), default=TARGET)
def main(kinds: str, train: int, heldout: int, target: Path) -> None:
    """Write the tasks, the kinds taking turns, so that any number of first rows is a fair mixture."""
    each = [rows_of(kind, train, heldout) for kind in kinds.split(",")]
    lines = [json.dumps(row) + "\n" for row in itertools.chain.from_iterable(zip(*each, strict=True))]
    target.write_text("".join(lines), encoding="utf-8")
    click.echo(f"{target}: {len(lines)} tasks")


if __name__ == "__main__":
    main()
