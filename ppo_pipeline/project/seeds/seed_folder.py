"""A folder of its own for each seed: a clone that shares git's objects and DVC's cache with the project.

`dvc exp run --temp` has such a folder too, but loses it, with what the stage at work kept, when it is killed or fails,
and resets the working folder while it starts. This one stays until its seed is done, so a killed seed goes on within
the stage, and nothing of the project is touched but for the experiment that is added in the end.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import PipelineError
from ...settings.params import Params
from .experiments import experiment
from .git import git
from .identity import PARAMS, write_overrides


class SeedFolder:
    """The folder of one seed of the run `name`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.path = Path(".dvc/tmp/seeds", name, f"seed-{seed}")
        self.log = Path("logs/seeds", name, f"seed-{seed}.log")

    def prepare(self, commit: str, snapshot: str, overrides: Sequence[str], params: Params) -> None:
        """Bring the files of `snapshot` here, on top of `commit`, with the settings of this seed.

        What an earlier, unfinished run left stays: outputs, and what its stage at work kept. Raises PipelineError where
        a file that the stages read is not in git and not in DVC's cache.
        """
        if not (self.path / ".git").is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            git("clone", "--quiet", "--shared", "--no-checkout", ".", str(self.path))
        git("fetch", "--quiet", str(Path().resolve()), snapshot, folder=self.path)
        git("checkout", "--quiet", "--force", "--detach", commit, folder=self.path)
        git("restore", f"--source={snapshot}", "--staged", "--worktree", ":/", folder=self.path)
        self._configure()
        write_overrides(self.path / PARAMS, [*overrides, f"seed={self.seed}"])
        self._restore_data()
        for path in [*params.data_files, *params.sources.values()]:
            if not (self.path / Path(path).expanduser()).exists():
                raise PipelineError(
                    f"{path}: not in git, nor in DVC's cache, so the seeds would run without; `git add` or `dvc add` "
                    "it, or name it in params.yaml by its absolute path."
                )

    def _configure(self) -> None:
        """Set the project's own DVC and git settings, those outside of git, and its cache."""
        from dvc.config import Config
        from dvc.repo import Repo

        with Repo() as repo, Config(str(self.path / ".dvc")).edit("local") as settings:
            settings.update(repo.config.read("local"))
            settings["cache"] = {**settings.get("cache", {}), "dir": repo.cache.local_cache_dir}
        for key in ("user.name", "user.email"):
            if value := git("config", "--default", "", key):
                git("config", key, value, folder=self.path)

    def _restore_data(self) -> None:
        """Take what .dvc files name out of the cache: data sets, sealed rounds."""
        from dvc.repo import Repo

        if files := git("ls-files", "*.dvc", folder=self.path).splitlines():
            with Repo(str(self.path)) as repo:
                repo.checkout([str(self.path / file) for file in files], allow_missing=True)

    def save(self, commit: str, text: str) -> str:
        """Keep the finished run as an experiment of the project, on top of `commit`; return its own commit."""
        name = experiment(self.name, self.seed)
        command = [sys.executable, "-m", "dvc", "exp", "save", "--force", "--name", name, "--message", text]
        unknown = [option for path in ("dvc.lock", "metrics") for option in ("--include-untracked", path)]
        done = subprocess.run([*command, *unknown], cwd=self.path, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PipelineError(f"seed {self.seed}: DVC cannot save its experiment: {done.stderr.strip()}")
        ref = f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"
        git("fetch", "--quiet", str(self.path), f"+{ref}:{ref}")
        return git("rev-parse", ref)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
