"""`ppo-pipeline seeds`: the settings in force with several seeds, and what their metrics have in common."""

import re
from collections.abc import Callable
from pathlib import Path

import click

from ..errors import PipelineError, nearest
from ..project.faults import faults_told
from ..project.paths import Paths
from ..project.seeds.experiments import done_seeds, experiment, message, metrics_of
from ..project.seeds.git import head, snapshot
from ..project.seeds.identity import FOLDERS, PARAMS, identity, params_with
from ..project.seeds.runs import Ended, alone, cores, run_all
from ..project.seeds.seed_folder import SeedFolder
from ..project.seeds.spread import read_spread, spread, write_spread
from ..settings.params import ROOT, Params
from .seed_tables import end_of, markdown

FOLDER = Paths().seed_metrics
NEEDED = ("dvc.yaml", ".dvc/config", "stages", "ppo_pipeline", PARAMS.as_posix(), *FOLDERS)
GOES_ON = "what is done stays; the same command goes on from there."


@click.command()
@click.argument("count", type=click.IntRange(min=1), required=False)
@click.option("-S", "overrides", multiple=True, metavar="SECTION.SETTING=VALUE", help="As of dvc exp run; repeatable.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(min=0), help="The first seed.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Seeds that run at a time.")
@click.option("--name", default="seeds", show_default=True, help="What the result and its experiments are called.")
@click.option("--show", "shown", is_flag=False, flag_value="", metavar="[NAME]", help="Print results; run nothing.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw it too, with matplotlib.")
def seeds(
    count: int | None, overrides: tuple[str, ...], first: int, jobs: int, name: str, shown: str | None, png: Path | None
) -> None:
    """Run params.yaml with COUNT seeds; print median, quartiles, least and greatest of the main metrics.

    Each seed is a DVC experiment. metrics/seeds/NAME.csv has every metric of every round, and `ppo-pipeline report`
    draws it. A seed that is done is not run again; a killed command goes on where it was.
    """
    draw = drawer(png)
    if shown is not None:
        if count is not None or overrides:
            raise click.UsageError("--show prints results and runs nothing; it takes no number of seeds and no -S.")
        for path in results(shown):
            show(path)
            draw(path)
        return
    if count is None:
        raise click.UsageError("How many seeds? `ppo-pipeline seeds 5`, or --show for results.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise PipelineError(f"--name {name}: letters, digits, - and _ alone; experiments and a file get this name.")
    with faults_told(GOES_ON):
        failed = compute(name, list(range(first, first + count)), overrides, jobs)
    path = FOLDER / f"{name}.csv"
    if len(failed) < count:
        show(path)
        draw(path)
    if failed:
        logs = ", ".join(SeedFolder(name, seed).log.as_posix() for seed in failed)
        raise PipelineError(f"failed: seed {', '.join(map(str, failed))}; see {logs}. The same command tries again.")


def compute(name: str, wanted: list[int], overrides: tuple[str, ...], jobs: int) -> list[int]:
    """Run the seeds that are not done, write metrics/seeds/NAME.csv of those that are; return the failed ones."""
    if any(override.lstrip("+~").partition("=")[0] == "seed" for override in overrides):
        raise PipelineError("-S seed: the seeds are --first and those after it, COUNT in all.")
    params = params_with(overrides)
    commit = head()
    now = snapshot(commit, [*NEEDED, *params.data_files, *params.sources.values()])
    same = identity(params)
    failed = []
    with alone(name) as lock:
        done = {seed: found for seed, found in done_seeds(name, same, params).items() if seed in wanted}
        for seed in sorted(done):
            click.echo(f"seed {seed}: done already, {experiment(name, seed)}")
        folders = [SeedFolder(name, seed) for seed in wanted if seed not in done]
        if folders:
            click.echo(f"seeds {', '.join(str(f.seed) for f in folders)}: output in {folders[0].log.parent}/seed-*.log")
        if jobs > 1:
            tell_threads(params, jobs)
        told = Progress(len(wanted), len(done), jobs, params)
        for ended in run_all(folders, jobs, lock, lambda folder: folder.prepare(commit, now, overrides, params)):
            seed = ended.folder.seed
            if ended.code:
                failed.append(seed)
                told.failed(ended)
                continue
            done[seed] = ended.folder.save(commit, message(name, seed, same))
            ended.folder.remove()
            told.done(ended, done[seed])
    if done:
        in_lines = [each for line in params.lines for each in line]  # so that the main line comes first
        parents = {ROOT: "", **{each: params.parents[each] for each in in_lines}}
        rows = spread({seed: metrics_of(done[seed]) for seed in sorted(done)}, parents)
        write_spread(FOLDER / f"{name}.csv", rows, sorted(done))
    return sorted(failed)


class Progress:
    """Says a line as each seed ends."""

    def __init__(self, count: int, before: int, jobs: int, params: Params) -> None:
        self.count, self.ended, self.jobs, self.params = count, before, jobs, params
        self.seconds: list[float] = []

    def done(self, ended: Ended, commit: str) -> None:
        """Say how a seed came out."""
        numbers = metrics_of(commit)
        score = numbers.get(self.params.last_round, {}).get("eval/scores")
        scored = f"held-out {score:+.3f} after" if isinstance(score, int | float) else "done,"
        rounds = self.params.depth(self.params.last_round)
        self._line(ended, f"{scored} {rounds} round{'s' * (rounds != 1)}")

    def failed(self, ended: Ended) -> None:
        """Say that a seed failed."""
        self._line(ended, f"failed (exit code {ended.code}), see {ended.folder.log}")

    def _line(self, ended: Ended, text: str) -> None:
        self.ended += 1
        self.seconds.append(ended.seconds)
        left = sum(self.seconds) / len(self.seconds) * (self.count - self.ended) / self.jobs
        later = f"; about {minutes(left)} left" if left else ""
        click.echo(f"seed {ended.folder.seed} ({self.ended} of {self.count}): {text}, {minutes(ended.seconds)}{later}")


def minutes(seconds: float) -> str:
    """Return a duration as text."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def tell_threads(params: Params, jobs: int) -> None:
    """Say what several runs at a time do to threads."""
    if not params.threads:
        click.echo(
            f"{jobs} at a time with {max(1, cores() // jobs)} threads each: compute.threads is 0, so numbers may be "
            "rounded otherwise than one at a time; set it for the same bits either way",
            err=True,
        )
    elif params.threads * jobs > cores():
        click.echo(f"{jobs} at a time with compute.threads {params.threads} share {cores()} cores", err=True)


def results(name: str) -> list[Path]:
    """Return the files of results: that of `name`, all where it is empty; PipelineError where there is none."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.csv"))}
    if not found:
        raise PipelineError(f"{FOLDER}: no results of several seeds yet; `ppo-pipeline seeds 5` makes some.")
    if name and name not in found:
        raise PipelineError(f"{FOLDER}: no '{name}'.{nearest(name, list(found))} There are: {', '.join(found)}.")
    return [found[name]] if name else list(found.values())


def show(path: Path) -> None:
    """Print the tables of a result."""
    rows = read_spread(path)
    click.echo(f"\n## {path.stem}: seeds {', '.join(map(str, sorted({s for row in rows for s in row.of_seeds})))}")
    for table in (*markdown(rows), end_of(rows)):
        click.echo(f"\n{table}")
    click.echo(f"\nall metrics of all rounds: {path}; curves: ppo-pipeline report")


def drawer(png: Path | None) -> Callable[[Path], None]:
    """Return what draws a result to `png`, nothing without one; PipelineError, before any work, without matplotlib."""
    if png is None:
        return lambda path: None
    from .seed_picture import draw, require_matplotlib

    require_matplotlib()

    def drawn(path: Path) -> None:
        draw(path.stem, read_spread(path), png)
        click.echo(f"picture: {png}")

    return drawn
