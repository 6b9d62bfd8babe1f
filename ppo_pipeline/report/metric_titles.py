"""What metrics are called, and what they are counted in: for people, the same in report, tables and pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..settings.params import Params

ERROR = "_se"  # behind a metric's name: its standard error, told with it and without a chart of its own


@dataclass(frozen=True)
class Title:
    """words: what a person calls the metric. unit: what stands at its axis; empty where it is counted in nothing."""

    words: str
    unit: str = ""

    def __str__(self) -> str:
        """Return both in one line, as a table wants it."""
        return f"{self.words} ({self.unit})" if self.unit.partition(" ")[0] in ("nats", "tokens") else self.words


# The main ones, in the order in which they are shown; every other metric follows under its own name.
MAIN = {
    "eval/scores": Title("Held-out score", "reward"),
    "eval/correct": Title("Held-out right answers", "share"),
    "objective/scores": Title("Training score", "reward"),
    "objective/correct": Title("Training right answers", "share"),
    "objective/kl": Title("KL to the base", "nats"),
    "objective/entropy": Title("Entropy", "nats a token"),
    "val/response_length": Title("Response length", "tokens"),
    "eval/finished": Title("Held-out answers that ended", "share"),
    "policy/clipfrac": Title("Clipped tokens", "share"),
    "val/explained_variance": Title("Explained variance of the values", "share"),
    "policy/grad_norm": Title("Gradient norm", "L2 norm"),
}
SCORES = 4  # so many of them are scores; the reward's components follow these


def main_titles(params: Params) -> dict[str, Title]:
    """Return the main metrics of a run with these settings: the scores, each component of the reward, the others."""
    parts = {c.name: f"{c.name}, weight {c.weight:g}" for c in params.reward.components}
    of_parts = {f"reward/{name}": Title(words, "reward") for name, words in parts.items()}
    if len(parts) > 1:
        of_parts |= {f"eval/{name}": Title(f"Held-out {name}", "reward") for name in parts}
    first = list(MAIN)[:SCORES]
    return {name: MAIN[name] for name in first} | of_parts | {name: MAIN[name] for name in MAIN if name not in first}


def in_order(names: Iterable[str], main: dict[str, Title]) -> list[dict[str, object]]:
    """Return the charts of these metrics, {metric, title, unit, main}: the main ones first, no standard errors."""
    found = set(names)
    errors = {name for name in found if name.endswith(ERROR) and name.removesuffix(ERROR) in found}
    order = [*(name for name in main if name in found), *sorted(found - set(main) - errors)]
    titles = {name: main.get(name, Title(name)) for name in order}
    return [{"metric": m, "title": t.words, "unit": t.unit, "main": m in main} for m, t in titles.items()]
