"""How stages and `ppo-pipeline` end on a fault of the machine or Ctrl-C: in one line.

Other errors keep their traceback, which a report of the bug needs.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..errors import PipelineError
from ..errors.machine_faults import told
from ..errors.memory import OTHERWISE

INTERRUPTED = 128 + 2  # a shell's exit code for a command that SIGINT ended


@contextmanager
def faults_told(goes_on: str = "", less_memory: str = OTHERWISE) -> Iterator[None]:
    """Raise PipelineError for a fault of the machine; end this process at Ctrl-C, as a shell expects it.

    goes_on: what Ctrl-C leaves to do. less_memory: what makes the work need less memory.
    """
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted; {goes_on or 'no file is half-written.'}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        text = told(error, less_memory)
        if text is None:
            raise
        raise PipelineError(text) from None


class PlainGroup(click.Group):
    """A group of commands that write files but are no stages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        with faults_told():
            return super().invoke(ctx)
