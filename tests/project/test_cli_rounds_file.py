"""params.yaml in forms that people write: each edit changes its own lines and nothing else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.settings.params import load_params

HEAD = (Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8").split("\nrounds:")[0] + "\n"
ONE, TWO, B = (f"  {entry}\n" for entry in ("r001: {parent: r000}", "r002: {parent: r001}", "b: {parent: r001}"))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def edited(before: str, *arguments: str, head: str = HEAD) -> str:
    Path("params.yaml").write_bytes((head + before).encode())
    result = CliRunner().invoke(main, ["rounds", *arguments])
    assert result.exit_code == 0, result.output
    load_params()
    text = Path("params.yaml").read_bytes().decode()
    assert text.startswith(head)
    return text.removeprefix(head)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"rounds:\n{ONE}", f"rounds:\n{ONE}{TWO}"),
        (f"rounds:  # mine\n{ONE}", f"rounds:  # mine\n{ONE}{TWO}"),
        (f"rounds:\n  # first\n{ONE}\n# the end\n", f"rounds:\n  # first\n{ONE}{TWO}\n# the end\n"),
        (f"rounds:\n{ONE}"[:-1], f"rounds:\n{ONE}{TWO}"),
        ('rounds:\n  "r001": {parent: r000}\n', f'rounds:\n  "r001": {{parent: r000}}\n{TWO}'),
        (
            "rounds:\n    r001:\n        parent: r000  # x\n\n",
            f"rounds:\n    r001:\n        parent: r000  # x\n  {TWO}\n",
        ),
        ("rounds:\n  r001: {parent: r000,\n    seed: 1}\n", f"rounds:\n  r001: {{parent: r000,\n    seed: 1}}\n{TWO}"),
        ("rounds: {}  # none\n", "rounds: {r001: {parent: r000}}  # none\n"),
        ("rounds: {r001: {parent: r000}} # x", "rounds: {r001: {parent: r000}, r002: {parent: r001}} # x"),
    ],
)
def test_add(before: str, after: str) -> None:
    assert edited(before, "add", "1") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"rounds:\n{ONE}{TWO}", f"rounds:\n{ONE}"),
        (f"rounds:\n{ONE}  # two\n{TWO}  # b\n  b: {{parent: r001}}\n", f"rounds:\n{ONE}  # two\n  # b\n{B}"),
        (f"rounds:\n{ONE}  r002:\n    parent: r001\n\n# end\n", f"rounds:\n{ONE}\n# end\n"),
        ("rounds:\n  'r002': {parent: r000}\n", "rounds: {}\n"),
        ("rounds: {a: {parent: r000}, r002: {parent: a}}\n", "rounds: {a: {parent: r000}}\n"),
    ],
)  # fmt: skip
def test_remove(before: str, after: str) -> None:
    assert edited(before, "remove", "r002") == after


def test_line_ends_mode_and_link_stay() -> None:
    crlf = f"rounds:\n{ONE}".replace("\n", "\r\n")
    assert edited(crlf, "add", "1", head=HEAD.replace("\n", "\r\n")) == crlf + TWO.replace("\n", "\r\n")
    Path("params.yaml").rename("real.yaml")
    Path("real.yaml").chmod(0o640)
    Path("params.yaml").symlink_to("real.yaml")
    assert CliRunner().invoke(main, ["rounds", "add", "1"]).exit_code == 0
    assert Path("params.yaml").is_symlink()
    assert Path("real.yaml").stat().st_mode & 0o777 == 0o640
    assert len(load_params().rounds) == 3


@pytest.mark.parametrize("settings", [["advantage.gamma=["], ["advantage=1", "advantage.gamma=0.5"]])
def test_a_wrong_setting_is_explained(settings: list[str]) -> None:
    Path("params.yaml").write_text(f"{HEAD}rounds:\n{ONE}")
    options = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(main, ["rounds", "branch", "r001", "--name", "b", *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback instead of a message"
    assert Path("params.yaml").read_text() == f"{HEAD}rounds:\n{ONE}"
