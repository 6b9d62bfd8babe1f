"""docs/your-task.md: its files and settings fit together in a new project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc_project import REPOSITORY
from ruamel.yaml import YAML

from ppo_pipeline.cli.main import main
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.settings.params import load_params

PAGE = (REPOSITORY / "docs/your-task.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
(SETTINGS,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project with the page's files and settings."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init", "."]).exit_code == 0
    for name, text in FILES.items():
        Path(name).write_text(text)
    subprocess.run([sys.executable, "make_prompts.py"], check=True)
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    for section, settings in yaml.load(SETTINGS).items():
        params[section].update(settings)
    yaml.dump(params, Path("params.yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "reward_functions"]:
        monkeypatch.delitem(sys.modules, name)  # another project's
    return tmp_path


def test_the_settings_fit_the_prompts(project: Path) -> None:
    params = load_params()
    table = read_prompts(params.prompts)
    splits = table.column("split").to_pylist()
    assert (splits.count("train"), splits.count("heldout")) == tuple(
        int(number) for number in re.findall(r"(\d+) to train on, (\d+) held out", PAGE)[0]
    )
    assert splits.count("train") >= params.rollout.prompts_per_round
    assert "thing" in table.column_names


def test_the_reward_by_hand(project: Path) -> None:
    given = [
        "A hammer drives nails.",
        "A hammer is a tool that people use for driving many long nails.",  # 13 words
        "It drives nails.",
        "A hammer drives nails. It is heavy.",
        "A hammer drives nails, and so",
        "Hammer " * 40 + "it.",
    ]
    n = len(given)
    samples = Samples([f"{i}" for i in range(n)], [[]] * n, ["?"] * n, given, [[1]] * n, {"thing": ["hammer"] * n})
    scores = score_samples(load_params().reward, samples)["score"]
    assert list(scores) == pytest.approx([1.0, 0.95, 0.0, 0.0, 0.0, 0.0])


def test_the_page_s_command_scores_by_hand(project: Path) -> None:
    (command,) = re.findall(r"`ppo-pipeline (score [^`]*)`", PAGE)
    printed = CliRunner().invoke(main, shlex.split(command)).stdout.splitlines()
    assert [line.split("\t")[:2] for line in printed[1:]] == [
        ["A hammer drives nails.", "+1.000"],
        ["Nails.", "+0.000"],
    ]
