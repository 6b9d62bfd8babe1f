"""Projects to be measured: a copy of this one with its own model, prompts and settings."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ppo_pipeline.project.paths import Paths
from ppo_pipeline.project.sealing.index import EMPTY
from ppo_pipeline.settings.params import ROOT as UNTRAINED

from .measuring import ROOT, environment
from .prompts import prompts

CODE = ("dvc.yaml", ".dvcignore", ".gitignore", "stages", "ppo_pipeline", "reward_functions", "params.yaml")
REPRO = ["dvc", "repro", "--quiet"]
LENGTH_ONLY = {
    "name": "brief", "type": "rule", "weight": 1.0, "match": "none", "column": "expected", "pattern": None, "hit": 0.0,
    "miss": 0.0, "length_penalty": 0.01, "max_length_penalty": None, "case_column": None, "tolerance": None,
}  # fmt: skip


def make_project(folder: Path, base: Path, count: int, heldout: int = 16) -> Path:
    """Fill `folder` with a project of `count` training prompts on the model at `base`; no round yet."""
    folder.mkdir(parents=True)
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    make_folders(folder)
    (folder / "data" / "prompts").mkdir()
    rows = [{"prompt": text, "split": "train"} for text in prompts(count)]
    rows += [{"prompt": text.replace("?", "."), "split": "heldout"} for text in prompts(count + heldout)[count:]]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data/prompts/questions.jsonl").write_text(lines, encoding="utf-8")
    settings = {
        "prompts.source": "data/prompts/questions.jsonl",
        "base.model": str(base.resolve()),
        "sources.base": str(base.resolve()),
        "reward.components": [LENGTH_ONLY],
        "reward.correct": None,
        "rollout.prompts_per_round": count,
        "rollout.batch_size": count,
        "rounds": {},
    }
    change(folder, settings)
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, env=environment(), check=True)
    return folder


@contextmanager
def untrained(base: Path) -> Iterator[Paths]:
    """Yield the paths of an untrained round with the committed settings, of which `init` has made the policy."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(UNTRAINED, root=Path(folder))
        paths.base.parent.mkdir()
        paths.base.symlink_to(base.resolve())
        shutil.copy(ROOT / "params.yaml", folder)
        command = [sys.executable, "-m", "stages", "init"]
        subprocess.run(command, cwd=folder, env=environment(), check=True)
        yield paths


def make_folders(folder: Path) -> None:
    """Make what a project without sealed rounds and local models has of both: empty folders, an empty list."""
    (folder / "sealed/metrics").mkdir(parents=True)
    (folder / "sealed/rounds.yaml").write_text(EMPTY, encoding="utf-8")
    (folder / "data/sources/base").mkdir(parents=True)


def change(folder: Path, settings: dict[str, Any]) -> None:
    """Set settings in the project's params.yaml, by dotted name."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for name, value in settings.items():
        *path, last = name.split(".")
        section = params
        for part in path:
            section = section[part]
        section[last] = value
    yaml.dump(params, folder / "params.yaml")


def rounds(count: int) -> dict[str, dict[str, str]]:
    """Return the first `count` rounds, one after the other."""
    return {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in range(1, count + 1)}


def work_inside(folder: Path, name: str) -> dict[str, float]:
    """Return the seconds of work that each stage of a round reports, imports and process start excluded."""
    records = (json.loads(path.read_text()) for path in sorted((folder / "logs" / name).glob("*.json")))
    return {record["stage"]: record["seconds"] for record in records}


def peaks(folder: Path, name: str) -> dict[str, float]:
    """Return the peak memory in GB that each stage of a round reports."""
    records = (json.loads(path.read_text()) for path in sorted((folder / "logs" / name).glob("*.json")))
    return {record["stage"]: record["peak_memory_gb"] for record in records}
