"""`python -m benchmarks.sums PARAMS.yaml`: a task whose rounds are cheap, for `python -m benchmarks.ablations`.

511 sums, products and differences as plain text behind three solved ones, which run once for all prompts: a round of 64
has some 700 tokens, a tenth of the skills'. The same bytes at each run.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from .measuring import ROOT

SOLVED = "3 + 4 = 7\n6 x 5 = 30\n9 - 2 = 7\n"
TARGET = ROOT / "data/prompts/sums.jsonl"
CHANGES: dict[str, dict[str, Any]] = {
    "prompts": {"source": "data/prompts/sums.jsonl", "chat_template": "plain"},
    "rollout": {"max_new_tokens": 8, "stop_tokens": ["\n"], "max_prompt_tokens": 64},
    "evaluate": {"max_new_tokens": 8, "batch_size": 256},
}


@click.command()
@click.argument("params", type=click.Path(dir_okay=False, path_type=Path))
def main(params: Path) -> None:
    """Write data/prompts/sums.jsonl, and the committed settings with it as their task to PARAMS."""
    rng = random.Random(0)
    tasks = list(drawn(rng))
    rng.shuffle(tasks)
    with TARGET.open("w", encoding="utf-8") as file:
        for number, (kind, question, answer) in enumerate(tasks):
            row = {"prompt_id": f"{kind}-{number:03d}", "prompt": f"{SOLVED}{question} =", "expected": str(answer)}
            file.write(json.dumps(row | {"kind": kind, "split": "heldout" if number % 5 < 2 else "train"}) + "\n")
    yaml = YAML()
    settings = yaml.load(ROOT / "params.yaml")
    for section, changes in CHANGES.items():
        settings[section].update(changes)
    yaml.dump(settings, params)


def drawn(rng: random.Random) -> Iterator[tuple[str, str, int]]:
    """Yield kind, question and answer, no pair of numbers twice, in whatever order: so none is in both splits."""
    seen: set[tuple[Any, ...]] = set()

    def new(*key: Any) -> bool:
        known = key in seen
        seen.add(key)
        return not known

    for a in range(1, 10):
        yield from (("sum1", f"{a} + {b}", a + b) for b in range(1, 10) if new("+", *sorted((a, b))))
    for _ in range(250):
        while True:
            a, b = rng.randint(10, 99), rng.randint(1, 99)
            a, b = (b, a) if rng.random() < 0.5 else (a, b)
            if new("+", *sorted((a, b))):
                break
        yield "sum2", f"{a} + {b}", a + b
    for a in range(2, 13):
        yield from (("product", f"{a} x {b}", a * b) for b in range(2, 13) if new("x", *sorted((a, b))))
    for _ in range(150):
        while True:
            a, b = rng.randint(10, 99), rng.randint(1, 50)
            if a > b and new("-", a, b):
                break
        yield "difference", f"{a} - {b}", a - b


if __name__ == "__main__":
    sys.exit(main())
