"""Sealed rounds without DVC: which are chosen, how the files are edited, and that lineages pass through them."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.learning_curve import HELDOUT, curve_rows, merged, sealed_metrics
from ppo_pipeline.project.policies import policy_folder
from ppo_pipeline.project.rounds_file import RoundsFile
from ppo_pipeline.project.sealing import index, lock_text
from ppo_pipeline.project.sealing.main_line import refuse_another_main_line
from ppo_pipeline.project.sealing.seal import chosen
from ppo_pipeline.project.sealing.unseal import with_descendants
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import ROUND_STAGES

HEAD = (Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8").split("\nrounds:")[0] + "\n"
OPEN = "rounds:\n  # those behind\n  r003: {parent: r002}\n  r004: {parent: r003}  # last\n"
SEALED = {"r001": {"parent": "r000"}, "r002": {"parent": "r001", "advantage": {"kl_coef": 0.1}}}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("params.yaml").write_text(HEAD + OPEN, encoding="utf-8")
    index.write_entries(SEALED)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["rounds", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_sealed_round_counts_for_depth_and_lineage_and_is_not_in_the_pipeline() -> None:
    params = load_params()
    assert params.lineage("r004") == ["r001", "r002", "r003", "r004"]
    assert ROUND_STAGES["update"].of(params, "r003").depth == 3
    assert list(params.rounds) == ["r003", "r004"]
    assert list(params.all_rounds) == ["r001", "r002", "r003", "r004"]


def test_sealing_changes_no_stage_settings() -> None:
    sealed = load_params()
    entries = "".join(f"  {line}\n" for line in Path("sealed/rounds.yaml").read_text().splitlines()[1:])
    Path("params.yaml").write_text(HEAD + OPEN.replace("rounds:\n", f"rounds:\n{entries}"), encoding="utf-8")
    index.write_entries({})
    never = load_params()
    for stage in ROUND_STAGES.values():
        for name in ("r003", "r004"):
            assert stage.of(sealed, name) == stage.of(never, name)


def test_a_round_that_is_open_and_sealed_is_refused_with_what_to_do() -> None:
    index.write_entries({**SEALED, "r003": {"parent": "r002"}})
    with pytest.raises(PipelineError, match=r"rounds\.r003 is in sealed/rounds\.yaml too.*rounds seal"):
        load_params()
    assert load_params(settled=False).depth("r004") == 4


def test_a_mistake_in_the_list_names_the_list() -> None:
    index.write_entries({"r001": {"parnet": "r000"}})
    with pytest.raises(PipelineError, match=r"sealed/rounds\.yaml: rounds\.r001"):
        load_params()


def test_rounds_start_from_sealed_ones_and_take_no_name_of_theirs() -> None:
    index.write_entries({**SEALED, "r009": {"parent": "r001"}})
    run("add", "1", "--parent", "r004")
    run("branch", "r001", "--name", "b")
    assert [(name, entry.parent) for name, entry in load_params().rounds.items()][2:] == [
        ("r010", "r004"),
        ("b", "r001"),
    ]
    assert "there is a round 'r002' already" in run("branch", "r001", "--name", "r002", code=1).output
    assert "rounds unseal r002" in run("remove", "r002", code=1).output


def test_sealing_or_unsealing_that_would_turn_the_main_line_is_refused() -> None:
    run("branch", "r002", "--name", "b")
    params = load_params()
    refuse_another_main_line(params, ["r001", "r002", "r003", "b", "r004"])
    with pytest.raises(
        PipelineError, match=r"^b would stand before r003.* r001 to r004 now.*`main: true` into rounds\.r003"
    ):
        refuse_another_main_line(params, ["r001", "r002", "b", "r003", "r004"])
    marked = OPEN.replace("{parent: r002}", "{parent: r002, main: true}") + "  b: {parent: r002}\n"
    Path("params.yaml").write_text(HEAD + marked, encoding="utf-8")
    refuse_another_main_line(load_params(), ["r001", "r002", "b", "r003", "r004"])


def test_without_an_open_round_the_next_starts_from_the_last_sealed_one() -> None:
    Path("params.yaml").write_text(HEAD + "rounds: {}\n", encoding="utf-8")
    assert load_params().last_round == "r002"
    run("add", "1")
    assert load_params().lineage("r003") == ["r001", "r002", "r003"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OPEN, OPEN.replace("  r003", "  r001: {parent: r000}\n  r003")),
        ("rounds: {r003: {parent: r002}}\n", "rounds: {r001: {parent: r000}, r003: {parent: r002}}\n"),
        ("rounds: {}\n", "rounds: {r001: {parent: r000}}\n"),
        ("rounds:\n  x:\n    parent: r002\n", "rounds:\n  r001: {parent: r000}\n  x:\n    parent: r002\n"),
    ],
)
def test_unsealed_rounds_come_first_and_all_other_bytes_stay(before: str, after: str) -> None:
    Path("params.yaml").write_text(HEAD + before, encoding="utf-8")
    file = RoundsFile(Path("params.yaml"), settled=False)
    file.put_first({"r001": {"parent": "r000"}})
    file.save()
    assert Path("params.yaml").read_text(encoding="utf-8") == HEAD + after


def test_list_shows_sealed_rounds_and_add_gives_a_hint_above_thirty_open_ones() -> None:
    rows = [line for line in run("list").output.splitlines() if line.startswith("r00")]
    assert ["(sealed)" in row for row in rows] == [True, True, False, False]
    assert "kl_coef=0.1" in rows[1]
    assert "rounds seal" not in run("add", "28").output
    assert "31 rounds are open" in run("add", "1").output


def test_a_missing_policy_of_a_sealed_round_is_pulled_and_not_computed() -> None:
    with pytest.raises(PipelineError) as caught:
        policy_folder(load_params(), "r002")
    assert "dvc pull" in caught.value.message
    assert "dvc repro" not in caught.value.message


def test_the_curve_runs_through_sealed_rounds() -> None:
    params = load_params()
    metrics = {name: dict.fromkeys(HELDOUT, 0.0) for name in ["r000", *params.all_rounds]}
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    assert [(row["round"], row["parent"], row["depth"]) for row in rows][1:] == [
        ("r001", "r000", 1), ("r002", "r001", 2), ("r003", "r002", 3), ("r004", "r003", 4),
    ]  # fmt: skip


def test_sealed_metrics_merge_as_open_ones_do_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "r001.json").write_text('{"update": {"z": 1, "b": 2}, "rollout": {"b": 3, "a": 4}}')
    assert list(merged(sealed_metrics(tmp_path, "r001")).items()) == [("a", 4), ("b", 2), ("z", 1)]
    with pytest.raises(PipelineError, match=r"r002\.json: no such file"):
        sealed_metrics(tmp_path, "r002")


BRANCHED = "rounds:\n  a: {parent: r002}\n  b: {parent: a}\n  c: {parent: r000}\n  d: {parent: b}\n"


@pytest.mark.parametrize(
    ("keep", "through", "names"),
    [(1, None, ["a", "b", "c"]), (2, None, ["a", "b"]), (4, None, []), (9, None, []), (0, None, ["a", "b", "c", "d"]),
     (None, "b", ["a", "b"]), (None, "c", ["c"]), (None, "r002", [])],
)  # fmt: skip
def test_which_rounds_are_sealed(keep: int | None, through: str | None, names: list[str]) -> None:
    Path("params.yaml").write_text(HEAD + BRANCHED, encoding="utf-8")
    assert chosen(load_params(), keep, through) == names


def test_no_round_is_sealed_whose_parent_stays_open() -> None:
    Path("params.yaml").write_text(HEAD + "rounds:\n  a: {parent: b}\n  c: {parent: r000}\n  b: {parent: r002}\n")
    assert chosen(load_params(), 1, None) == ["c"]
    with pytest.raises(PipelineError, match=r"no round 'bb'\. Did you mean 'b'"):
        chosen(load_params(), None, "bb")


def test_unsealing_takes_the_descendants_along() -> None:
    sealed = {name: {"parent": parent} for name, parent in (("a", "r000"), ("d", "c"), ("b", "r000"), ("c", "a"))}
    assert with_descendants("a", sealed) == ["a", "d", "c"]
    assert with_descendants("b", sealed) == ["b"]


LOCK = """schema: '2.0'
stages:
  code:
    cmd: python -m stages.code --code
      data/code
    outs:
    - path: data/code
  rollout@r001:
    cmd: one
  rollout@xr001:
    cmd: another
  update@r001:
    cmd: two
datasets:
- x
"""


def test_entries_of_the_lock_are_taken_out_and_put_back_byte_by_byte() -> None:
    Path("dvc.lock").write_bytes(LOCK.encode())
    blocks = lock_text.of_round(lock_text.read(), "r001")
    assert lock_text.parsed(blocks) == {"rollout@r001": {"cmd": "one"}, "update@r001": {"cmd": "two"}}
    lock_text.take_out(["r001"])
    rest = LOCK.replace("  rollout@r001:\n    cmd: one\n", "").replace("  update@r001:\n    cmd: two\n", "")
    assert Path("dvc.lock").read_bytes() == rest.encode()
    lock_text.put_back(blocks)
    assert Path("dvc.lock").read_bytes() == rest.replace("datasets", "".join(blocks.values()) + "datasets").encode()


def test_a_lock_in_another_form_is_left_alone() -> None:
    text = "schema: '2.0'\nstages:\n    rollout@r001:\n        cmd: one\n"
    Path("dvc.lock").write_text(text)
    with pytest.raises(PipelineError, match=r"dvc\.lock: 'rollout@r001:'"):
        lock_text.take_out(["r001"])
    assert Path("dvc.lock").read_text() == text
