"""`ppo-pipeline rounds`: the file's own bytes stay, and the table says what is there."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppo_pipeline.cli.main import main
from ppo_pipeline.settings.params import load_params

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    head = COMMITTED.read_text(encoding="utf-8").split("\nrounds:")[0]
    rounds = "".join(f"  r{n:03d}: {{parent: r{n - 1:03d}}}\n" for n in range(1, 5))
    Path("params.yaml").write_text(f"{head}\nrounds:\n{rounds}", encoding="utf-8")


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["rounds", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_add_appends_bytes_and_changes_none() -> None:
    before = Path("params.yaml").read_bytes()
    run("add", "2")
    assert Path("params.yaml").read_bytes() == before + b"  r005: {parent: r004}\n  r006: {parent: r005}\n"


def test_add_names_the_end_that_it_goes_on_from_and_asks_where_there_are_several() -> None:
    assert "added r005, starting from r004;" in run("add", "1").output
    run("branch", "r002", "--name", "r003b", "--set", "advantage.kl_coef=0.2")
    before = Path("params.yaml").read_bytes()
    asked = run("add", "1", code=1).output
    assert (
        "2 lines of rounds end: r005 (r001 to r005, the main line), r003b (r003b, from r002);" in asked
        and "--parent r005" in asked
    )
    assert "Did you mean 'r001'?" in run("add", "1", "--parent", "r01", code=1).output
    assert Path("params.yaml").read_bytes() == before
    said = run("add", "1", "--parent", "r003b").output
    assert "r006 is on a branch; curves follow the main line, r001 to r005" in said
    assert "advantage.kl_coef=0.2 holds in r003b alone" in said
    assert load_params().rounds["r006"].parent == "r003b"
    assert "holds in" not in run("add", "1", "--parent", "r003b", "--set", "advantage.kl_coef=0.3").output


def test_a_branch_is_the_main_line_where_it_is_marked_and_two_marks_are_refused() -> None:
    assert "curves follow the main line, r001 to r004" in run("branch", "r002", "--name", "x").output
    assert load_params().last_round == "r004"
    assert "y is on the main line, r001 to y" in run("branch", "r002", "--name", "y", "--main").output
    assert load_params().last_round == "y"
    assert "r005 is on the main line" in run("add", "1", "--parent", "y").output
    message = "rounds.y and rounds.z start from r002, and both have `main: true`"
    assert message in run("branch", "r002", "--name", "z", "--main", code=1).output
    assert "z" not in load_params().rounds


def test_remove_tells_of_files_only_where_they_are() -> None:
    assert run("remove", "r004").output == "removed r004 from params.yaml\n"
    Path("data/rounds/r003").mkdir(parents=True)
    assert "; its files under data/rounds/r003 are still here" in run("remove", "r003").output
    assert list(load_params().rounds) == ["r001", "r002"]


def test_list_says_which_outputs_are_here() -> None:
    run("branch", "r001", "--name", "b", "--set", "advantage.kl_coef=0.1", "--set", "seed=0")
    for name in ("rollouts", "rewards", "reference", "advantages", "eval"):
        for round_name in ("r001", "r002"):
            path = Path("data/rounds", round_name, f"{name}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    Path("data/rounds/r001/policy").mkdir()
    cells = [line.split("\t") for line in run("list").output.splitlines()]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["r001"] == ["r000", "1", "r001 to r004", "", "all"]
    assert rows["r002"] == ["r001", "2", "r001 to r004", "", "rollout, reward, reference, advantage, evaluate"]
    assert rows["r004"] == ["r003", "4", "r001 to r004", "", "none"]
    assert rows["b"] == ["r001", "2", "b", "seed=0 advantage.kl_coef=0.1", "none"]


def test_list_shows_settings_literally() -> None:
    rule = (
        "{type: rule, name: x, weight: 1.0, match: none, column: expected, hit: 0.0, miss: 0.0, length_penalty: 0.0, "
        "max_length_penalty: null, case_column: '[red]', pattern: null, tolerance: null}"
    )
    run("branch", "r001", "--name", "b", "--set", f"reward.components=[{rule}]", "--set", "reward.correct=null")
    assert "[red]" in "".join(run("list").output.split())


def test_a_setting_s_number_is_read_as_yaml_reads_it_and_text_is_refused() -> None:
    """1e-5 is a number to YAML 1.2, which this and DVC read, and text to YAML 1.1; in quotes it is text to both."""
    run("add", "1", "--set", "update.lr=1e-5")
    assert load_params().of_round("r005").update.lr == 1e-5
    before = Path("params.yaml").read_bytes()
    for text in ('"1e-5"', "1e-5s", "0,1"):
        output = run("add", "1", "--set", f"update.lr={text}", code=1).output
        assert "(rounds.r006): update.lr: input should be a valid number" in output
    assert (
        "found '1e-5'. It is text to YAML; write it without quotes"
        in run("add", "1", "--set", 'update.lr="1e-5"', code=1).output
    )
    assert "Did you mean 'lr'?" in run("add", "1", "--set", "update.lrr=0.1", code=1).output
    assert Path("params.yaml").read_bytes() == before
