"""Errors whose message is all that a user needs to mend the cause."""

import click

from .terminal import spelled_out


class PipelineError(click.ClickException):
    """A fault in the user's settings, files or machine: shown as one message, without a traceback.

    The message names the place (file, column, row or setting) and says what to do.
    """

    def format_message(self) -> str:
        """Return what is shown; a file's or service's text in it may hold control characters."""
        return spelled_out(self.message)


def nearest(name: str, known: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    from difflib import get_close_matches

    match = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
