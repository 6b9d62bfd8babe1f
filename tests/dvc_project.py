"""A copy of the project in which a test runs the real dvc."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from conftest import save_tiny, tell_apart, write_letter_prompts
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.plan.reruns import reruns
from ppo_pipeline.project.sealing.index import EMPTY
from ppo_pipeline.project.sealing.tracked import dvc_project
from ppo_pipeline.settings.params import load_params

REPOSITORY = Path(__file__).resolve().parent.parent
CODE = ("dvc.yaml", ".dvcignore", ".gitignore", "stages", "ppo_pipeline", "reward_functions", "params", "params.yaml")


class ProjectCopy:
    """The committed code and settings in `folder`; models and prompts are the test's to add."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in CODE:
            source = REPOSITORY / name
            if source.is_dir():
                # With what Python has compiled of it, seconds for each project; *.pyc.* is being written just now.
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
            else:
                shutil.copy(source, folder / name)
        (folder / "sealed/metrics").mkdir(parents=True)
        (folder / "sealed/metrics/.gitkeep").touch()
        (folder / "sealed/rounds.yaml").write_text(EMPTY)
        (folder / "data/sources/base").mkdir(parents=True)
        (folder / "data/sources/base/.gitkeep").touch()
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": str(self.folder),
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        environment, pipe = self.environment(), subprocess.PIPE
        # In an environment of the test's own, its commands: Popen looks for them by this process's PATH.
        command = (shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:])
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *command: str) -> str:
        return finish(self.start(*command))

    def repro(self, *targets: str) -> set[str]:
        """Run `dvc repro`; return the stages that it computed (not those that it took from its cache)."""
        return stages_run(self.run("dvc", "repro", *targets))

    def change(self, path: str, value: Any) -> None:
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        *sections, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        section = params
        for name in sections:
            section = section[name]
        section[last] = value
        yaml.dump(params, self.folder / "params.yaml")

    def hashes(self) -> dict[str, str]:
        lock = YAML(typ="safe").load(self.folder / "dvc.lock")
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}

    def lock_sizes(self, round_name: str) -> int:
        """Return the bytes of a round's outputs in data/rounds, as dvc.lock has them."""
        lock = YAML(typ="safe").load(self.folder / "dvc.lock")
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return sum(out["size"] for out in outs if out["path"].startswith(f"data/rounds/{round_name}/"))


class Project(ProjectCopy):
    """A tiny base model, two rounds and few samples; `policy`: settings of that section."""

    first_run: set[str]  # of one that was copied: the stages that its first `dvc repro` ran

    def __init__(self, folder: Path, tied: bool = True, **policy: Any) -> None:
        super().__init__(folder)
        save_tiny(folder / "model", tied=tied)
        (folder / "data" / "prompts").mkdir()
        write_letter_prompts(folder, "abcdefghijklmnop")
        make_small(folder / "params.yaml", **policy)

    @classmethod
    def copy_of(cls, other: "Project", folder: Path) -> Self:
        """Return a copy of a project, with what DVC keeps of its runs."""
        shutil.copytree(other.folder, folder, symlinks=True, dirs_exist_ok=True)
        made = object.__new__(cls)
        made.folder, made.first_run = folder, other.first_run
        return made


def make_small(path: Path, **policy: Any) -> None:
    """Set params.yaml to the tiny model in `model`, two rounds and few samples."""
    yaml = YAML()
    params = yaml.load(path)
    params["base"]["model"] = "model"
    params["sources"] = {"base": "model"}
    params["policy"].update(policy)
    params["compute"].update(device="cpu", dtype="fp32", threads=1)
    params["rollout"].update(prompts_per_round=4, samples_per_prompt=2, max_new_tokens=6)
    params["evaluate"]["max_new_tokens"] = 6
    params["update"].update(epochs=1, minibatches=2)
    tell_apart(params)
    params["rounds"] = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}}
    yaml.dump(params, path)


def project_that_ran(place: Path) -> Project:
    """Return a project as Project makes it, after its first `dvc repro`: one for all that ask at `place`.

    To be copied, never changed: most tests are about what comes after a first run, which takes a minute.
    """
    told = place / "ran.json"
    with (place / "ran.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of pytest makes it: wait
        if not told.exists():
            made = ForetoldProject(Path(tempfile.mkdtemp(dir=place, prefix="ran")))
            ran = made.repro()
            told.write_text(json.dumps({"folder": str(made.folder), "ran": sorted(ran)}))
    found = json.loads(told.read_text())
    project = object.__new__(Project)
    project.folder, project.first_run = Path(found["folder"]), set(found["ran"])
    return project


class ForetoldProject(Project):
    """The same, where each `dvc repro` must run what `ppo-pipeline status` says beforehand, and nothing else."""

    def repro(self, *targets: str) -> set[str]:
        try:
            told = self.foretold()
        except PipelineError:  # params.yaml is wrong: dvc repro says so too
            return super().repro(*targets)
        ran = super().repro(*targets)
        assert ran <= told["runs"] | told["follows"], (ran, told)
        assert targets or told["runs"] <= ran, (ran, told)
        return ran

    def foretold(self) -> dict[str, set[str]]:
        """Return the stages by what is said of them: runs, follows, cached."""
        with contextlib.chdir(self.folder), dvc_project() as dvc:
            found = reruns(dvc.repo, load_params())
        kinds = ("runs", "follows", "cached")
        return {kind: {each.stage for each in found if each.kind == kind} for kind in kinds}


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a command that must succeed; return what it printed."""
    out, err = process.communicate()
    assert process.returncode == 0, f"{process.args}\n{out}\n{err}"
    return out + err


def stages_run(printed: str) -> set[str]:
    """Return the stages that a `dvc repro` says it ran."""
    return set(re.findall(r"^Running stage '([^']+)'", printed, re.MULTILINE))
