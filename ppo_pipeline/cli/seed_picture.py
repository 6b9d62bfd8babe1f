"""The main metrics of several seeds as a PNG: bands over the rounds. Wants matplotlib, the extra `bench`."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import PipelineError
from ..project.seeds.spread import Row, lineage
from ..report.metric_titles import MAIN
from ..storage.files import atomic_file

COLUMNS = 3


def require_matplotlib() -> None:
    """Raise PipelineError where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise PipelineError(
            "--png: matplotlib is not installed: pip install 'ppo-pipeline[bench]'. `ppo-pipeline report` draws the "
            "same curves without."
        )


def draw(name: str, rows: Sequence[Row], target: Path) -> None:
    """Draw each main metric over the rounds to the last one: min to max, the quartiles in a darker band, the median."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    way = lineage(rows)
    metrics = [metric for metric in MAIN if any(row.metric == metric for row in rows)]
    lines = max(1, -(-len(metrics) // COLUMNS))
    figure, panels = pyplot.subplots(lines, COLUMNS, figsize=(12, 3 * lines), layout="constrained", squeeze=False)
    for axes in panels.flat[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(panels.flat, metrics, strict=False):
        found = sorted((r for r in rows if r.metric == metric and r.round in way), key=lambda row: row.depth)
        x = [row.depth for row in found]
        median, q1, q3, low, high = ([row.statistics[k] for row in found] for k in ("median", "q1", "q3", "min", "max"))
        axes.fill_between(x, low, high, color="#0072b2", alpha=0.15, linewidth=0, label="min to max")
        axes.fill_between(x, q1, q3, color="#0072b2", alpha=0.3, linewidth=0, label="quartiles")
        axes.plot(x, median, color="#0072b2", marker="o", markersize=3, label="median")
        axes.set_title(MAIN[metric].words)
        axes.set_ylabel(MAIN[metric].unit)
        axes.set_xlabel("round")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(frameon=False)
    figure.suptitle(f"{max((len(row.of_seeds) for row in rows), default=0)} seeds: {name}")
    with atomic_file(target) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
