"""docs/rewards.md: its settings are valid, and its server works as it stands there."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reward_server import component, samples
from ruamel.yaml import YAML
from warm_project import until

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.types.http import HttpComponent
from ppo_pipeline.settings.preference_sections import Preferences
from ppo_pipeline.settings.reward_model_sections import RewardModel
from ppo_pipeline.settings.reward_sections import Reward, component_types

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def entries() -> list[dict[str, Any]]:
    return [entry for block in loaded() if isinstance(block, list) for entry in block]


def loaded() -> list[Any]:
    return [YAML(typ="safe").load(block) for block in blocks("yaml")]


def test_each_type_has_a_valid_block() -> None:
    reward = Reward(correct=None, components=entries())
    assert {entry.type for entry in reward.components} == set(component_types())


def test_the_reward_model_to_copy_is_valid_and_its_pairs_are_there() -> None:
    (sections,) = (block for block in loaded() if "reward_model" in block)
    (entry,) = (RewardModel(**values) for values in sections["reward_model"].values())
    assert entry.preferences in sections["preferences"]
    assert Preferences(**sections["preferences"][entry.preferences])


def test_the_page_s_functions_in_a_line() -> None:
    pytest.importorskip("py3langid")
    (text,) = (block for block in blocks("python") if "def band" in block)
    found: dict[str, Any] = {}
    exec(text, found)
    assert found["band"](["a " * 19, "a " * 20, "a " * 60, "a " * 61]) == [0.0, 1.0, 1.0, 0.0]
    assert found["code_alone"](["```\nx\n```", "So: ```x```", "```x``` and ```y```", "x"]) == [1.0, 0.0, 0.0, 0.0]
    german = "Das Wetter ist heute sehr schön, und wir gehen mit den Kindern in den Park."
    english = "The weather is very nice today, and we are going to the park with the children."
    assert found["english"]([german, english]) == [0.0, 1.0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_page_s_server_gives_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = (block for block in blocks("python") if "HTTPServer" in block)
    (tmp_path / "server.py").write_text(script)
    port = free_port()
    monkeypatch.setenv("REWARD_TOKEN", "the-token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = subprocess.Popen([sys.executable, str(tmp_path / "server.py"), str(port)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: server.poll() is not None or answers(port))
        (entry,) = (entry for entry in entries() if entry["type"] == "http")
        entry["url"] = entry["url"].replace(":8000", f":{port}")
        given = samples(4, expected=["", "x", "y", "xxx"])
        settings = HttpComponent(**{**entry, "token_variable": "REWARD_TOKEN", "batch_size": 3})
        assert settings.score(given) == [1.0, 1.0, 0.0, 1.0]
        with pytest.raises(PipelineError, match=r"status 401.*wrong token.*Does it want a token\? Set token_variable"):
            component(entry["url"], token_variable=None).score(given)
    finally:
        server.terminate()
        server.wait()


def test_the_page_s_table_of_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    (block,) = re.findall(r"^```\n\$ ppo-pipeline (score .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    command, table = block.split("┏")
    printed = CliRunner().invoke(main, shlex.split(command.replace("\\\n", " ")))
    shown = [
        [cell.strip() for cell in line.strip("┃│").split(line[0])] for line in table.splitlines() if line[0] in "┃│"
    ]
    assert [line.split("\t") for line in printed.stdout.splitlines()] == shown
    assert table.splitlines()[-1] == printed.stderr.strip()
