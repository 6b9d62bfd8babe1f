"""The click classes of the stages and of `ppo-pipeline`: a fault of the machine or Ctrl-C ends in one line.

Other errors keep their traceback, which a report of the bug needs.
"""

import sys
from typing import Any, NoReturn

import click

from ..errors import PipelineError
from ..errors.machine_faults import told

INTERRUPTED = 128 + 2  # a shell's exit code for a command that SIGINT ended


class StageCommand(click.Command):
    """A stage; the command's name is the stage's."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the stage; raise PipelineError for a fault of the machine."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end_interrupted()
        except Exception as error:
            _raise_told(error, self.name)


class PlainGroup(click.Group):
    """A group of commands that write files but are no stages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; raise PipelineError for a fault of the machine."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted; no file is half-written.", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            _raise_told(error, None)


def end_interrupted() -> NoReturn:
    """Say what Ctrl-C leaves behind, and end this process as a shell expects it."""
    click.echo("Interrupted; no output is half-written. `dvc repro` goes on from here.", err=True)
    sys.exit(INTERRUPTED)


def _raise_told(error: Exception, stage: str | None) -> NoReturn:
    text = told(error, stage)
    if text is None:
        raise error
    raise PipelineError(text) from None
