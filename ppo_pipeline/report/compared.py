"""Experiments side by side: this run, other folders, DVC experiments, several seeds; as bands over the rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..project.paths import Paths
from ..project.seeds.experiments import commit_of, metrics_of, params_of
from ..project.seeds.identity import settings_of
from ..project.seeds.spread import STATISTICS, lineage, read_spread, statistics
from ..settings.files import differences, flattened, public, told
from ..settings.params import ROOT, Params
from .branches import overrides
from .curves import metrics_of as metrics_of_round
from .metric_titles import in_order, main_titles
from .run import Run

Way = list[dict[str, float]]  # the metrics after 0, 1, ... rounds, on the way to the last round


@dataclass(frozen=True)
class Member:
    """A run: what it is called, its settings with the seed apart (flattened), and its numbers.

    private: the settings whose values are not shown.
    """

    name: str
    seed: int
    settings: dict[str, Any]
    private: set[str]
    way: Way


def compared(run: Run, others: Sequence[str] = ()) -> dict[str, Any]:
    """Return {charts, groups: [{label, members, bands: {metric: {statistic: number after 0, 1, ... rounds}}}]}.

    Runs of the same settings are one group: this run with those of `others`, folders or DVC experiments, that differ
    from it in nothing but the seed; then a group for each other settings, its label saying what differs; then each
    result of `ppo-pipeline seeds` in these folders. No group where this run is all there is. Raises PipelineError for
    what is neither a folder with params.yaml nor an experiment; adds a note for a file or a run that is left out.
    """
    members = [_of_folder(run, "this run"), *(_opened(run, name) for name in others)]
    groups = _grouped(members, run.notes)
    folders = [run.root, *(run.root / name for name in others if (run.root / name).is_dir())]
    groups += [group for folder in folders for group in _of_seeds(run, folder)]
    if len(groups) < 2 and len(groups[0]["members"]) < 2:
        return {"charts": [], "groups": []}
    names = {metric for group in groups for metric in group["bands"]}
    return {"charts": in_order(names, main_titles(run.params)), "groups": groups}


def _opened(run: Run, name: str) -> Member:
    if not (run.root / name).is_dir():
        commit = commit_of(name)
        params = params_of(commit)
        return _member(name, params, metrics_of(commit))
    if (run.root / name).resolve() == run.root.resolve():
        raise PipelineError(f"--with {name}: this is the run itself; name another project's folder, or an experiment.")
    return _of_folder(Run(run.root / name), name)


def _of_folder(run: Run, name: str) -> Member:
    return _member(name, run.params, {each: metrics_of_round(run, each) for each in _way(run.params)})


def _member(name: str, params: Params, numbers: dict[str, Any]) -> Member:
    settings = _settings(params)
    private = set(settings_of(params)) - set(flattened(public(params)))
    return Member(name, params.seed, settings, private, [numbers.get(each, {}) for each in _way(params)])


def _way(params: Params) -> list[str]:
    return [ROOT, *params.lineage(params.last_round)]


def _settings(params: Params) -> dict[str, Any]:
    """Return the settings that decide numbers but the seed; of the rounds what they change for themselves, by depth."""
    found = {name: value for name, value in settings_of(params).items() if not name.startswith("rounds.")}
    changed = {depth: overrides(params.all_rounds[name]) for depth, name in enumerate(_way(params)) if depth}
    return found | {f"after {depth - 1} rounds": text for depth, text in changed.items() if text}


def _grouped(members: list[Member], notes: list[str]) -> list[dict[str, Any]]:
    kinds: list[list[Member]] = []
    for member in members:
        kind = next((kind for kind in kinds if kind[0].settings == member.settings), None)
        if kind is None:
            kinds.append([member])
        elif any(other.seed == member.seed for other in kind):
            notes.append(f"--with {member.name}: left out, a run with these settings and seed {member.seed} is there.")
        else:
            kind.append(member)
    return [_group(_label(kind, members[0]), {f"seed {m.seed}": m.way for m in kind}) for kind in kinds]


def _label(kind: list[Member], own: Member) -> str:
    more = f" and {len(kind) - 1} more" if len(kind) > 1 else ""
    differ = differences(own.settings, kind[0].settings)
    hidden = own.private | kind[0].private
    changes = [
        f"{name} differs" if name in hidden else f"{name} {told(a)} → {told(b)}" for name, (a, b) in differ.items()
    ]
    return f"{kind[0].name}{more}{': ' if changes else ''}{', '.join(changes[:3])}{' ...' if len(changes) > 3 else ''}"


def _of_seeds(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Return a group for each result of `ppo-pipeline seeds` in a folder."""
    groups = []
    for path in sorted(Paths(root=folder).seed_metrics.glob("*.csv")):
        try:
            rows = read_spread(path)
        except PipelineError as error:
            run.notes.append(str(error.message).replace(f"{run.root}/", ""))
            continue
        rounds = lineage(rows)
        ways: dict[int, Way] = {seed: [{} for _ in rounds] for row in rows for seed in sorted(row.of_seeds)}
        for row in rows:
            for seed, number in row.of_seeds.items() if row.round in rounds else ():
                ways[seed][rounds.index(row.round)][row.metric] = number
        name = path.stem if folder == run.root else f"{folder.name}/{path.stem}"
        groups.append(_group(f"{name}, {len(ways)} seeds", {f"seed {seed}": way for seed, way in ways.items()}))
    return groups


def _group(label: str, ways: dict[str, Way]) -> dict[str, Any]:
    """Return a group: the statistics of each metric over its members, as far as they have come; null where none has."""
    longest = max(len(way) for way in ways.values())
    metrics = sorted({metric for way in ways.values() for numbers in way for metric in numbers})
    bands: dict[str, dict[str, list[float | None]]] = {}
    for metric in metrics:
        band: dict[str, list[float | None]] = {name: [None] * longest for name in STATISTICS}
        for depth in range(longest):
            reached = (way[depth] for way in ways.values() if depth < len(way))
            values = [v for numbers in reached if isinstance(v := numbers.get(metric), int | float)]
            for name, number in statistics(values).items() if values else ():
                band[name][depth] = float(f"{number:.6g}")
        bands[metric] = band
    return {"label": label, "members": list(ways), "bands": bands}
