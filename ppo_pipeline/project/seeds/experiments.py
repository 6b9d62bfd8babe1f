"""Seeds that are done: DVC experiments, each a commit under refs/exps/ with metrics/ and params.yaml in it."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...settings.params import SEALED, Params, load_params
from ..paths import Paths
from .git import git
from .identity import what_differs

IDENTITY = "Same settings, code and data: "


def experiment(name: str, seed: int) -> str:
    """Return the name of a seed's experiment."""
    return f"{name}-seed-{seed}"


def message(name: str, seed: int, identity: str) -> str:
    """Return the text of its commit."""
    return f"Seed {seed} of {name}\n\n{IDENTITY}{identity}"


def done_seeds(name: str, identity: str, params: Params) -> dict[int, str]:
    """Return the commit of each seed of the run `name` that is done already with this identity.

    Raises PipelineError where an experiment of that name is of something else: other settings, code or data.
    """
    lines = git("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    pattern = re.compile(rf"refs/exps/[^ ]+/{re.escape(name)}-seed-(\d+) (\w+)")
    found: dict[int, str] = {}
    others: dict[int, str] = {}
    for line in lines:
        if match := pattern.fullmatch(line):
            seed, commit = int(match[1]), match[2]
            same = f"{IDENTITY}{identity}" in git("log", "-1", "--format=%B", commit)
            (found if same else others)[seed] = commit
    for seed, commit in others.items():
        if seed not in found:
            raise PipelineError(
                f"--name {name}: taken, the experiment {experiment(name, seed)} is of something else "
                f"({_difference(commit, params)}). Give another --name, or remove it: "
                f"`dvc exp remove {experiment(name, seed)}`."
            )
    return found


def metrics_of(commit: str) -> dict[str, dict[str, Any]]:
    """Return {round: {metric: number}} of an experiment."""
    folder = Paths().round_metrics.as_posix()
    files = git("ls-tree", "--name-only", commit, f"{folder}/").splitlines()
    return {Path(file).stem: json.loads(git("show", f"{commit}:{file}")) for file in files}


def _difference(commit: str, now: Params) -> str:
    """Return what sets an experiment's settings apart from those of now."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_text(git("show", f"{commit}:params.yaml"), encoding="utf-8")
        try:
            return what_differs(load_params(path, Path(SEALED)), now)
        except PipelineError:  # of another version of this code
            return "its params.yaml has other settings than there are now"
