"""A project whose pipeline is two tiny scripts, so that real git and real DVC run several seeds in seconds."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from ppo_pipeline.cli.main import main

REPOSITORY = Path(__file__).resolve().parent.parent
PIPELINE = """
stages:
  base:
    cmd: python base.py
    deps: [base.py]
    outs: [data/base]
  prompts:
    cmd: python -c "open('data/prompts.parquet', 'w').write('p')"
    deps: [data/prompts/skills.jsonl]
    outs: [data/prompts.parquet]
  train:
    cmd: python train.py
    deps: [train.py, data/base, data/prompts.parquet]
    params: [seed, update.lr, update.epochs]
    outs:
      - metrics/rounds: {cache: false}
"""
BASE = """
import os, pathlib, time
time.sleep(2)  # long enough for another seed to start it too, were it not made first
with open(os.environ["TOLD"], "a") as file:
    file.write("base\\n")
pathlib.Path("data/base").write_text("the same for all seeds")
"""
# Writes numbers that follow from seed and lr; FAIL and HANG in the environment name a seed that does so.
TRAIN = """
import json, os, pathlib, sys, time
from ruamel.yaml import YAML
params = YAML(typ="safe").load(pathlib.Path("params.yaml"))
seed = str(params["seed"])
scratch = pathlib.Path("data/scratch/train")
scratch.parent.mkdir(parents=True, exist_ok=True)
with scratch.open("a") as file:
    file.write("started ")
with open(os.environ["TOLD"], "a") as file:
    file.write(f"train {seed} {os.environ.get('OMP_NUM_THREADS')}\\n")
if os.environ.get("FAIL") == seed:
    sys.exit("this seed fails")
if os.environ.get("HANG") == seed:
    time.sleep(600)
folder = pathlib.Path("metrics/rounds")
folder.mkdir(parents=True, exist_ok=True)
for number, name in enumerate(("r000", "r001")):
    score = number * (params["seed"] ** 2 + params["update"]["lr"])
    metrics = {"epochs": params["update"]["epochs"], "eval/scores": score}
    (folder / f"{name}.json").write_text(json.dumps(metrics))
(folder / "r001.json").write_text(json.dumps(metrics | {"starts": len(scratch.read_text().split())}))
"""


class SeedsProject:
    """One round, seed and learning rate decide its numbers; `told` says what ran. Committed to git."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told_file = folder / "project", folder / "told"
        (self.folder / "data/prompts").mkdir(parents=True)
        (self.folder / "reward_functions").mkdir()
        (self.folder / "reward_functions/__init__.py").touch()
        for name, text in (("dvc.yaml", PIPELINE), ("base.py", BASE), ("train.py", TRAIN)):
            (self.folder / name).write_text(text)
        for name in (".gitignore", ".dvcignore", "data/prompts/skills.jsonl"):
            shutil.copy(REPOSITORY / name, self.folder / name)
        settings = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").partition("\nrounds:")[0]
        (self.folder / "params.yaml").write_text(f"{settings}\nrounds:\n  r001: {{parent: r000}}\n")
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")
        self.commit()

    def commit(self) -> None:
        self.run("git", "add", ".")
        self.run("git", "commit", "--quiet", "--message", "a state")

    def environment(self, **changes: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "TOLD": str(self.told_file), "OMP_NUM_THREADS": "77"}
        who = {f"GIT_{role}_{part}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        return own | who | changes

    def start(self, *command: str, **changes: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, **self.environment(**changes), "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            (shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]),
            cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *command: str) -> str:
        process = self.start(*command)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    def seeds(self, *arguments: str, code: int = 0, **changes: str) -> str:
        """Run the command in this process, whose imports are there already; return what it says."""
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(main, ["seeds", *arguments], env=self.environment(**changes))
        assert result.exit_code == code, result.output
        assert code == 0 or isinstance(result.exception, SystemExit), result.exception
        return result.output

    def told(self) -> list[str]:
        """Return what ran since the last call, `train 3 1` for seed 3 with OMP_NUM_THREADS=1."""
        lines = self.told_file.read_text().splitlines() if self.told_file.exists() else []
        self.told_file.unlink(missing_ok=True)
        return lines
