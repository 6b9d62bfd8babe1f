"""Runs the stages of a small project in this process, each by the very command that dvc.yaml has for it."""

import json
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from conftest import save_tiny, tell_apart, write_letter_prompts
from ruamel.yaml import YAML

from stages.__main__ import main

REPOSITORY = Path(__file__).resolve().parent.parent
ROUND = ("rollout", "reward", "reference", "advantage", "update", "evaluate")


def command_of(stage: str, name: str = "") -> list[str]:
    """Return the arguments that dvc.yaml gives to `python -m stages` for a stage, of round `name` where it is one's."""
    entry = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"][stage]
    return shlex.split(entry.get("do", entry)["cmd"].replace("${key}", name))[3:]


def right_up_to(params: Any, characters: int) -> None:
    """Call a response right whose text has at most so many characters: some of a random model's are, some are not."""
    params["reward"]["components"][1].update(match="none", hit=0.0, length_penalty=1.0)
    params["reward"]["correct"] = {"component": params["reward"]["components"][1]["name"], "at_least": -characters}


class Stages:
    """A project folder with a tiny base model and prompts; `change` edits the settings in place.

    preset: the settings of that preset with its prompts, in fp32 on one thread of the CPU, else as committed; without
    one the committed settings, with rounds of a few letters.
    """

    def __init__(
        self, folder: Path, change: Callable[[Any], None], architecture: str = "llama", tied: bool = True,
        preset: str | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        save_tiny(folder / "data/base", architecture, tied=tied)
        (folder / "data/base/source.json").write_text(json.dumps({"model": "tiny", "trust_remote_code": False}))
        (folder / "data/prompts").mkdir()
        yaml = YAML()
        params = yaml.load(REPOSITORY / (f"params/{preset}.yaml" if preset else "params.yaml"))
        params["compute"].update(device="cpu", dtype="fp32", threads=1)
        if preset:
            shutil.copy(REPOSITORY / params["prompts"]["source"], folder / params["prompts"]["source"])
        else:
            write_letter_prompts(folder, "abcdefgh")
            tell_apart(params)
            params["rollout"].update(prompts_per_round=4, samples_per_prompt=2, max_new_tokens=6)
            params["evaluate"]["max_new_tokens"] = 6
            # every step is made, however long, and with the same learning rate
            params["update"].update(
                epochs=2, minibatches=1, target_kl=None, lr_schedule="constant", schedule_rounds=None
            )
            params["rounds"] = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}}
        change(params)
        self.parents = {name: entry["parent"] for name, entry in params["rounds"].items()}
        yaml.dump(params, folder / "params.yaml")
        self.run("prompts")
        self.run("settings")

    def run(self, stage: str, name: str = "") -> str:
        """Run a stage, of round `name` where it is a round's; return what it says."""
        with chdir(self.folder):
            result = CliRunner().invoke(main, command_of(stage, name), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def edit(self, change: Callable[[Any], None]) -> None:
        """Edit params.yaml, without running the stage that checks it."""
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        change(params)
        yaml.dump(params, self.folder / "params.yaml")

    def round(self, name: str) -> None:
        """Run all stages of a round."""
        for stage in ROUND:
            self.run(stage, name)

    def path(self, name: str) -> Path:
        """Return a path within a round's folder, `r001/policy` for one."""
        return self.folder / "data/rounds" / name

    def metrics(self, name: str) -> dict[str, Any]:
        """Return all numbers of a round's stages."""
        merged: dict[str, Any] = {}
        for path in (self.folder / "metrics/stages" / name).glob("*.json"):
            merged |= json.loads(path.read_text())
        return merged

    def column(self, path: str, name: str) -> Any:
        """Return a column of a round's table as Python values."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path(path), columns=[name]).column(name).to_pylist()
