"""CONTRIBUTING's example of a reward type, word for word: one new file, used in params.yaml, run by the real dvc."""

import json
import re

import pyarrow.parquet as pq
import pytest
from dvc_project import REPOSITORY, Project, stages_run
from ruamel.yaml import YAML

SECTION = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("### A reward type\n")[2].partition("\n### ")[0]

pytestmark = pytest.mark.slow


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def project(ran: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy_of(ran, tmp_path_factory.mktemp("project"))


def add(project: Project) -> str:
    """Write the new file into the project; return its path."""
    (path,) = re.findall(r"`(ppo_pipeline/rewards/types/\w+\.py)`", SECTION)
    (project.folder / path).write_text(block("python"))
    return str(path)


def rewards(project: Project) -> dict[str, list[float]]:
    table = pq.read_table(project.folder / "data/rounds/r001/rewards.parquet").to_pydict()
    return {name: values for name, values in table.items() if name != "sample_id"}


def test_a_new_file_is_a_new_type_and_no_token_is_sampled_again(project: Project) -> None:
    before, hashes = rewards(project), project.hashes()
    path = add(project)
    status = json.loads(project.run("dvc", "status", "--json", "--with-deps", "reward@r001"))
    assert set(status) == {"code"}
    # The code of what scores has changed, and gives what it gave.
    assert project.repro("reward@r001") == {"code", "settings", "reward@r001"}
    assert rewards(project) == before
    codes = {file.stem: json.loads(file.read_text()) for file in (project.folder / "data/code").glob("*.json")}
    assert {stage for stage, files in codes.items() if path in files} == {"settings", "reward", "evaluate"}

    (entry,) = YAML(typ="safe").load(block("yaml"))
    components = YAML(typ="safe").load(project.folder / "params.yaml")["reward"]["components"]
    project.change("reward.components", [*components, entry])
    assert project.repro("reward@r001") == {"settings", "reward@r001"}
    found = rewards(project)
    texts = pq.read_table(project.folder / "data/rounds/r001/rollouts.parquet").column("response_text").to_pylist()
    expected = [1 - abs(len(text.split()) - 20) / 20 for text in texts]
    assert found.pop(entry["name"]) == pytest.approx(expected)
    assert found.pop("score") == pytest.approx(
        [score + 0.5 * reward for score, reward in zip(before["score"], expected, strict=True)]
    )
    assert found == {name: values for name, values in before.items() if name != "score"}
    kept = [name for name in hashes if name.startswith(("data/base", "data/prompts", "data/rounds"))]
    assert {name for name in kept if project.hashes()[name] != hashes[name]} == {"data/rounds/r001/rewards.parquet"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": 20}, "reward.components.0.word: no such setting. Did you mean 'words'?"),
        ({"words": 0}, "reward.components.0.words: input should be greater than or equal to 1, found 0."),
        ({"type": "lenght"}, "'http', 'json_schema', 'length', 'math', 'model', 'python', 'repetition', 'rule'"),
    ],
    ids=["unknown", "range", "type"],
)
def test_its_settings_are_checked_as_those_of_any_other(project: Project, change: dict[str, object], said: str) -> None:
    add(project)
    (entry,) = YAML(typ="safe").load(block("yaml"))
    project.change("reward.components", [{**entry, **change}])
    process = project.start("dvc", "repro", "rollout@r001")
    printed = " ".join(process.communicate())
    assert process.returncode != 0
    assert said in printed.replace("\n", " ")
    assert stages_run(printed) <= {"code", "settings"}
