"""`ppo-pipeline judge`: a person chooses between two answers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import PipelineError, nearest
from .judged_pair import JudgedPair, pairs_in
from .judgements import Judgements
from .literal import literal, token_text
from .printed import note, on_terminal

KEYS = {"1": "1", "2": "2", "t": "tie", "s": "skip", "b": "back", "q": "quit"}
HELP = "1 or 2: the better answer   t: tie   s: skip   b: back   q: quit"


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="Else FILE with .judged.jsonl for its ending.")
@click.option("--compare", metavar="NAME", help="At the end, agreement with this of the pairs' `scores`, as score.")
def judge(path: Path, out: Path | None, compare: str | None) -> None:
    """Show the pairs of FILE, a prompt and two answers, and keep which one you find better.

    FILE is what `ppo-pipeline pairs` writes, or any file with a prompt and two `responses`. Each choice is on disk at
    once, and the next start goes on behind it. Which answer stands first is chance, the same at each start. In a pipe,
    a line of standard input is an answer: 1, 2, tie, skip, back or quit.
    """
    out = out or path.with_name(f"{path.name.split('.')[0]}.judged.jsonl")
    if out.suffix != ".jsonl" or out.resolve() == path.resolve():
        raise PipelineError(f"--out: '{out}' must be another file than FILE, with the ending .jsonl.")
    pairs = pairs_in(path)
    if compare is not None:
        check_compared(pairs, compare, path)
    kept = Judgements(out)
    judge_all(pairs, kept, ask)
    rows = [kept.rows[pair.pair_id] for pair in pairs if pair.pair_id in kept.rows]
    note(summary(rows, len(pairs), out))
    if compare is not None:
        note(agreement(rows, compare))


def judge_all(pairs: list[JudgedPair], kept: Judgements, ask: Callable[[JudgedPair, str], str]) -> None:
    """Ask for each pair that has no choice yet, until all have one or `ask` says quit.

    ask: given a pair and its number, returns one of the values of KEYS.
    """
    known = {pair.pair_id: pair for pair in pairs}
    waiting = [pair for pair in pairs if pair.pair_id not in kept.rows]
    place = 0
    while place < len(waiting):
        pair = waiting[place]
        choice = ask(pair, f"{place + 1} of {len(waiting)}")
        if choice == "quit":
            return
        if choice == "back":
            if place:
                place -= 1
            elif kept.last in known:  # of an earlier start
                waiting.insert(0, known[str(kept.last)])
            if waiting[place].pair_id in kept.rows:
                kept.undo()
            continue
        if choice != "skip":
            kept.add(pair.choose(choice))
        place += 1


def ask(pair: JudgedPair, number: str) -> str:
    """Show a pair and return what the person says of it; at the end of a pipe, quit."""
    show_pair(pair, number)
    while True:
        said = _said()
        word = said.strip().lower()
        if not said:
            return "quit"
        if word in KEYS or word in KEYS.values():
            return KEYS.get(word, word)
        note(f"{token_text(word)!r} is none of the keys. {HELP}")


def _said() -> str:
    """Return a key on a terminal, else a line; empty where there is no more."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    try:
        return str(click.getchar())
    except (KeyboardInterrupt, EOFError):
        return ""


def show_pair(pair: JudgedPair, number: str) -> None:
    """Print the prompt, and the answers side by side; in a pipe a line for each."""
    if not on_terminal():
        click.echo(f"pair\t{number}")
        for message in pair.messages:
            click.echo(f"{message['role']}\t{token_text(message['content'])}")
        for place, text in enumerate(pair.shown, 1):
            click.echo(f"{place}\t{token_text(text)}")
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.rule(number)
    for message in pair.messages:
        console.print(literal(f"{message['role']}: {message['content']}"))
    table = Table(expand=True)
    for title in ("1", "2"):
        table.add_column(title, ratio=1, overflow="fold")
    table.add_row(*map(literal, pair.shown))
    console.print(table)
    console.print(literal(HELP, "dim"))


def summary(rows: list[dict[str, Any]], total: int, out: Path) -> str:
    """Return how many pairs are judged, and how often the answer that stood first was chosen."""
    decided = [row for row in rows if not row.get("tie")]
    first = sum(row["shown"] == 1 for row in decided)
    text = f"{out}: {len(rows)} of {total} pairs judged, {len(rows) - len(decided)} of them ties"
    return text + (f"; of the others answer 1 was chosen in {first} of {len(decided)}" if decided else "")


def check_compared(pairs: list[JudgedPair], name: str, path: Path) -> None:
    """Raise PipelineError where a pair has no two scores of that name."""
    for pair in pairs:
        scores = pair.row.get("scores") or {}
        if not isinstance(scores, dict) or not isinstance(scores.get(name), list):
            raise PipelineError(f"{path}: pair '{pair.pair_id}' has no scores '{name}'.{nearest(name, list(scores))}")


def agreement(rows: list[dict[str, Any]], name: str) -> str:
    """Return in how many of the decided pairs the chosen answer has the higher score; equal scores count as neither."""
    gaps = [row["scores"][name][0] - row["scores"][name][1] for row in rows if not row.get("tie")]
    apart = [gap > 0 for gap in gaps if gap]
    equal = f", {len(gaps) - len(apart)} with equal scores left out" if len(gaps) > len(apart) else ""
    if not apart:
        return f"{name}: no decided pair to compare with{equal}"
    return f"{name} agrees in {sum(apart)} of {len(apart)} pairs ({100 * sum(apart) / len(apart):.0f} %){equal}"
