"""`ppo-pipeline track`: a run's numbers, sent to an experiment tracker."""

from pathlib import Path

import click

from ..errors import PipelineError

NAMES = ("tensorboard", "mlflow", "wandb", "trackio")


@click.command()
@click.option("--to", "target", required=True, type=click.Choice(NAMES), help="The tracker.")
@click.option("--project", default="ppo-pipeline", show_default=True, help="What the runs stand under there.")
@click.option("--name", help="What this run is called there. Without it this folder's name.")
@click.option("--where", help="Folder (tensorboard), tracking URI (mlflow), entity (wandb), server or Space (trackio).")
@click.option("--watch", "watched", is_flag=True, help="Send what is new as stages end, until Ctrl-C.")
def track(target: str, project: str, name: str | None, where: str | None, watched: bool) -> None:
    """Send each round's metrics and the settings: of a run that is finished, or goes on.

    A line of rounds is one run there, a branch another. What was sent before is not sent again.
    """
    from ..trackers.tracker import tracker_class

    kind, called = tracker_class(target), name or Path().resolve().name

    def send() -> None:
        from ..report.run import Run
        from ..trackers.lines import lines
        from ..trackers.tracker import send_new

        found = lines(Run(Path()), called)
        if not found:
            click.echo("No metrics yet; `dvc repro` makes them.")
        for line in found:
            tracker = kind(project, where, line)
            sent = send_new(tracker, line)
            changed = f", {sent.changed} of them with another number than before" if sent.changed else ""
            click.echo(f"{line.name}: {sent.new} numbers sent{changed}, {sent.kept} were there ({tracker.place})")

    if not watched:
        send()
        return
    from ..report.watch import watch

    def renew() -> None:
        try:
            send()
        except PipelineError as error:  # a server that is away, say: the next change tries again
            click.echo(str(error.message), err=True)

    try:
        watch([Path()], renew)
    except KeyboardInterrupt:
        send()
