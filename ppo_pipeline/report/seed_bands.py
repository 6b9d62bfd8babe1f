"""Results of several seeds, as `ppo-pipeline seeds` leaves them: bands of each metric over the rounds."""

from typing import Any

from ..errors import PipelineError
from ..project.paths import Paths
from ..project.seeds.spread import STATISTICS, lineage, read_spread
from .curves import in_order
from .run import Run


def seed_bands(run: Run) -> list[dict[str, Any]]:
    """Return {name, seeds, rounds, charts: [{metric, title, main}], bands: {metric: {statistic: numbers}}} of each.

    rounds: those on the way to the last one, from the untrained policy on; a number of each, None where it has none.
    Adds a note for a file that cannot be read.
    """
    found = []
    for path in sorted(Paths(root=run.root).seed_metrics.glob("*.csv")):
        try:
            rows = read_spread(path)
        except PipelineError as error:
            run.notes.append(str(error.message).replace(f"{run.root}/", ""))
            continue
        rounds = lineage(rows)
        bands: dict[str, dict[str, list[float | None]]] = {}
        for row in rows:
            if row.round in rounds:
                band = bands.setdefault(row.metric, {name: [None] * len(rounds) for name in STATISTICS})
                for name, number in row.statistics.items():
                    band[name][rounds.index(row.round)] = float(f"{number:.6g}")
        seeds = sorted({seed for row in rows for seed in row.of_seeds})
        found.append(
            {"name": path.stem, "seeds": seeds, "rounds": rounds, "charts": in_order(set(bands)), "bands": bands}
        )
    return found
