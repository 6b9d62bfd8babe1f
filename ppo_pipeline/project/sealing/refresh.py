"""Bring the stages up to date that read the list of rounds, so that `dvc status` is clean after sealing."""

import os
import subprocess
import sys
from pathlib import Path

import click

from .tracked import dvc_project

LISTING = ("settings", "summary")  # what these write for a round stays the same, sealed or not


def refresh() -> None:
    """Run the stages `settings` and `summary` where they alone are outdated; otherwise leave it to `dvc repro`."""
    for stage in LISTING:
        with dvc_project() as dvc:
            outdated = dvc.outdated()
        # A round's settings that are missing make its stages outdated, until `settings` has written them.
        if stage in outdated and (stage == "settings" or set(outdated) <= set(LISTING)) and not _repro(stage):
            click.echo(f"`dvc repro {stage}` failed; the rounds are as told above, run it again for the reason")
            return


def _repro(stage: str) -> bool:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", stage]
    return subprocess.run(command, env=environment, check=False).returncode == 0
