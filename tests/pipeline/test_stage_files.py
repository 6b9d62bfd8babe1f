"""What each stage opens is what dvc.yaml says: an audit hook of Python's watches the real stages of a small project."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from reward_pairs import entry, pairs_table
from ruamel.yaml import YAML
from sft_project import write_talk
from stage_runs import REPOSITORY, ROUND, Stages
from supervised_entries import sft_values

from ppo_pipeline.tables.preferences import PREFERENCES

WATCHED = ("data/", "metrics/", "sealed/")
IGNORED = ("data/scratch/", "data/prompts/")
ENTRIES = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
ASIDE = re.compile(r"(?<=/)\.([^/]+)\.(?:partial|old)-\d+")
OPENED: list[Path] | None = None  # a hook cannot be taken away; None switches it off


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]).absolute())


def declared(stage: str, name: str, start: str, *what: str) -> list[str]:
    """Return the paths of a stage's deps or outs."""
    entry = ENTRIES[stage]
    entries = [path for kind in what for path in entry.get("do", entry).get(kind, [])]
    paths = [path if isinstance(path, str) else next(iter(path)) for path in entries]
    values = {"key": name, "item.parent": "r000", "item.source": "data/talk.jsonl", "policy.start": start}
    values |= {"item.preferences": "pairs", "item.model": "data/base"}
    return [re.sub(r"\$\{([\w.]+)\}", lambda found: values.get(found[1], found[0]), path) for path in paths]


def within(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def opened_by(project: Stages, stage: str, name: str) -> set[str]:
    """Run the stage; return what it opened, a partial output or an old one aside by the name that it has."""
    global OPENED
    OPENED = []
    project.run(stage, name)
    found, OPENED = {path for path in OPENED if path.is_relative_to(project.folder)}, None
    names = {ASIDE.sub(r"\1", path.relative_to(project.folder).as_posix()) for path in found}
    return {name for name in names if name.startswith(WATCHED) and not name.startswith(IGNORED)}


@pytest.mark.parametrize(("tuning", "start"), [("lora", "data/sft/chat"), ("full", "data/base")])
def test_each_stage_opens_what_it_declares_and_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str, start: str
) -> None:
    sys.addaudithook(hook)
    monkeypatch.setattr("ppo_pipeline.project.running.tell_run", lambda name: None)  # no part of the stage: logs/ alone
    write_talk(tmp_path / "data/talk.jsonl")
    PREFERENCES.write(pairs_table(4, 2), tmp_path / "data/preferences/pairs.parquet")

    def change(params: Any) -> None:
        params["preferences"] = {"pairs": {"source": "data/talk.jsonl", "heldout_fraction": 0.1}}
        params["reward_model"] = {"kind": entry(members=1 + (tuning == "lora"), epochs=1)}
        params["sft"] = {"chat": sft_values(max_tokens=200)}
        params["policy"].update(tuning=tuning, start=start)
        params["rounds"] = {"r001": {"parent": "r000"}}

    project = Stages(tmp_path, change)
    (tmp_path / "sealed/metrics").mkdir(parents=True)
    (tmp_path / "sealed/rounds.yaml").write_text("{}\n")
    runs = [
        ("prompts", ""),
        ("settings", ""),
        ("reward_model", "kind"),
        ("sft", "chat"),
        ("init", ""),
        ("baseline", ""),
    ]
    runs += [*((stage, "r001") for stage in ROUND), ("summary", "")]
    for stage, name in runs:
        opened = opened_by(project, stage, name)
        deps, outs = declared(stage, name, start, "deps"), declared(stage, name, start, "outs", "metrics", "plots")
        params = "params" in ENTRIES[stage].get("do", ENTRIES[stage])
        known = [*deps, *outs, *(["sealed/rounds.yaml"] if params else [])]
        assert [path for path in opened if not within(path, known)] == [], stage
        for path in outs:
            assert (tmp_path / path).exists(), path
            assert any(within(each, [path]) for each in opened), path
        tables = ("data/settings", "data/preferences", "data/rounds", "data/prompts.parquet", "data/talk.jsonl", start)
        read = [path for path in deps if path.startswith(tables)]
        unread = [path for path in read if not any(within(each, [path]) for each in opened)]
        assert unread == [], stage
    assert json.loads((tmp_path / "metrics/summary.json").read_text())["rounds"] == 1
