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


def commit_of(name: str) -> str:
    """Return the commit of a DVC experiment, or of whatever else git knows by that name; PipelineError for neither."""
    for line in git("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines():
        reference, _, commit = line.partition(" ")
        if reference.rpartition("/")[2] == name:
            return commit
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except PipelineError:
        raise PipelineError(f"{name}: neither a folder, nor a DVC experiment (`dvc exp list`), nor a commit.") from None


def params_of(commit: str) -> Params:
    """Return the settings of a commit, its sealed rounds included; PipelineError where this code cannot read them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in git("ls-tree", "-r", "--name-only", commit, "params.yaml", SEALED.as_posix()).splitlines():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(git("show", f"{commit}:{name}"), encoding="utf-8")
        try:
            return load_params(Path(folder, "params.yaml"))
        except PipelineError as error:
            raise PipelineError(str(error.message).replace(folder, commit[:10])) from None


def _difference(commit: str, now: Params) -> str:
    """Return what sets an experiment's settings apart from those of now."""
    try:
        return what_differs(params_of(commit), now)
    except PipelineError:  # of another version of this code
        return "its params.yaml has other settings than there are now"
