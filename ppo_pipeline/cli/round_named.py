"""A round as commands take it: by its name, or as `best`."""

import click

from ..settings.params import Params

BEST = "best"


def round_named(params: Params, name: str) -> str:
    """Return the round that is meant: for `best` that of the best held-out score, for best:METRIC that of eval/METRIC.

    A round that is called `best` is itself. Raises PipelineError where no round is evaluated.
    """
    word, _, by = name.partition(":")
    if word != BEST or name in params.all_rounds:
        return name
    from ..project.best_round import standings  # with pyarrow: other names need none

    best = standings(params, by or "scores")[0]
    click.echo(f"best: {best.round}, eval/{by or 'scores'} {best.value:+.3f}", err=True)
    return best.round
