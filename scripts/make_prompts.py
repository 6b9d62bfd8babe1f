"""Write the prompt sets under data/prompts/: short tasks with one checkable answer.

    python scripts/make_prompts.py

The same bytes at each run. Every fifth item of a kind is held out of training, so that no held-out word, pair or
sum stands in a training prompt of its kind.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import prompt_words as words

FOLDER = Path(__file__).resolve().parent.parent / "data" / "prompts"
HELDOUT_EVERY = 5
ONE_WORD = ["Answer with one word.", "Just the word, please.", "Reply with one word only."]

Item = tuple[str, str]
Kind = tuple[str, bool, Item | None, list[str], list[Item]]


def pairs(entries: list[str]) -> list[Item]:
    """Return (question, answer) of each `question:answer`; an underscore stands for a space."""
    split = [entry.replace("_", " ").split(":") for entry in entries]
    return [(question, answer) for question, answer in split]


def of_nouns(start: int, count: int, answer: Callable[[str], str], shown: Callable[[str], str] = str) -> list[Item]:
    """Return (word as shown, answer) of `count` nouns, every second one from `start` on, around the list's end."""
    chosen = (words.NOUNS * 2)[start::2][:count]
    return [(shown(word), answer(word)) for word in chosen]


def sums() -> list[Item]:
    """Return the sums of two numbers from 1 to 10, the smaller one first."""
    return [(f"{a} + {b}", str(a + b)) for a in range(1, 11) for b in range(a, 11)]


def larger_of_two() -> list[Item]:
    """Return pairs of numbers below 50 with the larger one, which stands first in every second pair."""
    found = []
    for k in range(50):
        small, large = 1 + (k * 7) % 23, 26 + (k * 5) % 24
        found.append((f"{large} or {small}" if k % 2 else f"{small} or {large}", str(large)))
    return list(dict.fromkeys(found))


def next_of(cycle: list[str]) -> list[Item]:
    """Return each entry with the one that follows it, the last with the first."""
    return list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))


def english() -> list[Kind]:
    """Return the kinds of English tasks: name, whether letter case counts, an example, templates, items."""
    one = ONE_WORD
    return [
        ("repeat", False, ("house", "house"),
         ["Repeat this word and say nothing else: {}", "Say only this word: {}",
          "Write this word once and nothing more: {}"], of_nouns(0, 60, str)),
        ("lowercase", True, ("HOUSE", "house"),
         ["Write this word in lower case: {}. " + one[1], "Lower-case this word: {}. " + one[0]],
         of_nouns(1, 60, str, str.upper)),
        ("uppercase", True, ("house", "HOUSE"),
         ["Write this word in upper case: {}. " + one[1], "Put this word in capitals: {}. " + one[0]],
         of_nouns(2, 60, str.upper)),
        ("sum", False, ("20 + 5", "25"),
         ["What is {}? Answer with the number only.", "Calculate {} and give only the number.",
          "{} = ? Just the number."], sums()),
        ("bigger", False, ("70 or 80", "80"),
         ["Which number is bigger, {}? Answer with the number only.", "Give only the larger number: {}."],
         larger_of_two()),
        ("capital", False, ("Malta", "Valletta"),
         ["What is the capital of {}? Name the city only.", "Name the capital city of {}. " + one[1]],
         pairs(words.CAPITALS)),
        ("opposite", False, ("right", "wrong"),
         ["What is the opposite of {}? " + one[0], "Give the opposite of the word {}. " + one[1]],
         pairs(words.OPPOSITES)),
        ("plural", False, ("pen", "pens"),
         ["What is the plural of {}? " + one[0], "Give the plural of the word {}. " + one[1]],
         pairs(words.PLURALS)),
    ]  # fmt: skip


def chinese() -> list[Kind]:
    """Return the kinds of Chinese tasks."""
    digits, zodiac = words.ZH_DIGITS, words.ZH_ZODIAC
    sums_zh = [(f"{a}加{b}", str(a + b)) for a in range(1, 8) for b in range(a, 8) if (a + 2 * b) % 3]
    return [
        ("repeat", False, None, ["请重复这个词，不要说别的：{}", "只说这个词：{}"], [(w, w) for w in words.ZH_WORDS]),
        ("opposite", False, None, ["“{}”的反义词是什么？只回答一个字。", "请写出“{}”的反义词，只写一个字。"],
         pairs(words.ZH_OPPOSITES)),
        ("capital", False, None, ["{}的首都是哪里？只回答城市名。", "请说出{}的首都，不要说别的。"],
         pairs(words.ZH_CAPITALS)),
        ("sum", False, None, ["{}等于多少？只回答数字。", "请计算：{}，只写数字。"], sums_zh),
        ("colour", False, None, ["{}是什么颜色？请回答“某色”两个字。"], pairs(words.ZH_COLOURS)),
        ("numeral", False, None, ["数字{}用汉字怎么写？只回答一个字。"], [(str(i), digits[i]) for i in range(1, 11)]),
        ("zodiac", False, None, ["十二生肖中，{}的后面是什么？只回答一个字。"], next_of(list(zodiac))),
    ]  # fmt: skip


def rows(language: str, kinds: list[Kind]) -> Iterator[dict[str, object]]:
    """Yield the tasks of each kind, one per item, the templates taking turns.

    With an example, the conversation starts with the same question about it, answered as it should be.
    """
    for name, exact_case, example, templates, items in kinds:
        for number, (item, answer) in enumerate(items):
            template = templates[(number // HELDOUT_EVERY + number) % len(templates)]
            question = {"role": "user", "content": template.format(item)}
            row: dict[str, object] = {"prompt_id": f"{language}-{name}-{number:03d}"}
            if example is None:
                row["prompt"] = question["content"]
            else:
                first = {"role": "user", "content": template.format(example[0])}
                row["messages"] = [first, {"role": "assistant", "content": example[1]}, question]
            yield row | {
                "expected": answer,
                "kind": name,
                "item": item,
                "exact_case": exact_case,
                "split": "heldout" if number % HELDOUT_EVERY == HELDOUT_EVERY - 1 else "train",
            }


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where the files go.")
def main(folder: Path) -> None:
    """Write english.jsonl and chinese.jsonl."""
    for language, name, kinds in (("en", "english", english()), ("zh", "chinese", chinese())):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(language, kinds)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        click.echo(f"{name}: {len(lines)} tasks")


if __name__ == "__main__":
    main()
