"""`ppo-pipeline report`: the run as one HTML file."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from ..errors import PipelineError
from ..storage.files import atomic_file


@click.command()
@click.option("--output", default="report.html", show_default=True, type=click.Path(path_type=Path), help="File.")
@click.option("--round", "rounds", multiple=True, help="Show the samples of this round; repeatable. Without it all.")
@click.option("--samples", type=click.IntRange(min=1), help="Samples of each round at most. Without it 5,000 in all.")
@click.option(
    "--with", "others", multiple=True, metavar="FOLDER",
    help="Set the run of another project's folder, or a DVC experiment, beside this one; repeatable.",
)  # fmt: skip
@click.option("--watch", "watched", is_flag=True, help="Write it anew as stages end, until Ctrl-C; the page reloads.")
def report(output: Path, rounds: tuple[str, ...], samples: int | None, others: tuple[str, ...], watched: bool) -> None:
    """Write curves, times, distributions, samples and their tokens to one HTML file that opens from disk.

    Without --samples the file has as many as make 5,000 samples and 1,000,000 tokens in all.
    """
    if output.is_dir():
        raise PipelineError(f"{output}: is a folder; give --output a file name such as report.html.")
    if not watched:
        write(output, rounds, samples, others)
        return
    from ..report.watch import RELOAD, watch

    def renew() -> None:
        try:
            write(output, rounds, samples, others, RELOAD)
        except PipelineError as error:  # settings in the middle of an edit, say: the next change tries again
            click.echo(str(error.message), err=True)

    try:
        watch([Path(), *(Path(name) for name in others)], renew)
    except KeyboardInterrupt:
        click.echo("Watched no more; once again, as a page that stays:")
        write(output, rounds, samples, others)


def write(
    output: Path, rounds: Sequence[str], samples: int | None, others: Sequence[str], reload_after: float = 0.0
) -> None:
    """Write the file whole or not at all, and say what is in it and what is left out."""
    from ..project.paths import Paths
    from ..project.plan.left import stages_left
    from ..project.sealing.lock_text import LOCK
    from ..report.contents import contents
    from ..report.page import page
    from ..report.run import Run

    run = Run(Path(), rounds)
    with suppress(PipelineError):  # a dvc.lock of another form: DVC's own to say
        left = stages_left(run.params, "") if LOCK.is_file() else []
        old = dict.fromkeys(stage.partition("@")[2] for stage in left)
        if there := [name for name in old if name in run.rounds and Paths(name).metrics("evaluate").is_file()]:
            run.notes.append(f"Still of an earlier run: {', '.join(there)}; `dvc repro` makes them anew.")
    found = contents(run, samples, others, reload_after)
    text = page(found, f"PPO run of {dict(run.facts())['model']}")
    try:
        with atomic_file(output) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise PipelineError(f"{output}: cannot be written: {error.strerror}; choose another file.") from None
    for note in found.notes:
        click.echo(note, err=True)
    size = output.stat().st_size / 1e6
    click.echo(f"{output}: {len(run.rounds)} rounds, {found.shown:,} of {found.total:,} samples, {size:.1f} MB")
