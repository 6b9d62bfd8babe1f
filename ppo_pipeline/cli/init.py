"""`ppo-pipeline init`: a new project folder of one's own."""

import shutil
import subprocess
from pathlib import Path

import click

from ..project.new_project.files import make_project


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", help="base.model: a hub id, a folder, a .gguf file; without it the packaged small model.")
def init(folder: Path, model: str | None) -> None:
    """Make DIR a project that runs with this installed package: pipeline, settings, prompts, a reward function.

    Where DIR holds one of these files already, nothing is changed.
    """
    made = make_project(folder, model)
    click.echo(f"{folder}: {'  '.join(made)}")
    steps = ["dvc repro", "dvc metrics show && ppo-pipeline report"]
    if not start_git(folder):
        steps.insert(0, "git init  # no git was found; DVC needs a git repository")
    click.echo("Next:")
    for step in [f"cd {folder}", *steps] if folder.resolve() != Path.cwd() else steps:
        click.echo(f"  {step}")
    click.echo("Your own task: prompts/example.jsonl, reward_functions/example.py, and params.yaml, which names both.")


def start_git(folder: Path) -> bool:
    """Run `git init` where the folder is in no git repository; tell whether it is in one now."""
    git = shutil.which("git")
    if git is None:
        return False
    inside = subprocess.run([git, "-C", str(folder), "rev-parse", "--is-inside-work-tree"], capture_output=True)
    return inside.returncode == 0 or subprocess.run([git, "init", "--quiet", str(folder)]).returncode == 0
