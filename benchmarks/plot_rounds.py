"""Draw what `python -m benchmarks.rounds` measured: docs/performance-rounds.png. Wants the extra `bench`."""

import json
from pathlib import Path
from typing import Any

import click

INK, SEALED, OPEN = "#333333", "#0072b2", "#d55e00"


@click.command()
@click.option("--json", "source", type=click.Path(exists=True, path_type=Path),
              default=Path("benchmarks/results/rounds.json"), show_default=True)  # fmt: skip
@click.option("--png", "target", type=click.Path(path_type=Path), default=Path("docs/performance-rounds.png"),
              show_default=True)  # fmt: skip
def main(source: Path, target: Path) -> None:
    """Draw processor seconds of DVC against the number of rounds, for a further round and for nothing to do."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = json.loads(source.read_text(encoding="utf-8"))["rows"]
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, key, title in zip(
        panels, ("round", "nothing"), ("dvc repro, one further round", "dvc repro, nothing to do"), strict=True
    ):
        draw(axes, rows, "open", key, OPEN, "all rounds open")
        draw(axes, rows, "sealed", key, SEALED, "all but four sealed")
        axes.set_title(title, color=INK)
        axes.set_xlabel("rounds that are there already")
        axes.set_ylabel("DVC and stage starts, processor seconds")
        axes.set_xlim(left=0, right=1.08 * rows[-1]["rounds"])
        axes.set_ylim(bottom=0, top=1.08 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle("What DVC costs as rounds are added (stages that do no work)", color=INK)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    click.echo(f"written to {target}")


def draw(axes: Any, rows: list[dict[str, Any]], which: str, key: str, color: str, label: str) -> None:
    """Draw one line, with its last value written beside it."""
    points = [(row["rounds"], row[which][key]) for row in rows if which in row]
    axes.plot(*zip(*points, strict=True), marker="o", color=color, label=label)
    axes.annotate(f"{points[-1][1]:.1f} s", points[-1], xytext=(0, 8), textcoords="offset points", ha="center")


if __name__ == "__main__":
    main()
