"""Files with settings, of any content: they load, or are refused with PipelineError."""

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import EDITS, changes_of, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.sealing import lock_text
from ppo_pipeline.settings.params import load_params, read_sealed
from ppo_pipeline.settings.stage_settings import ROUND_STAGES, read_settings

COMMITTED = (Path(__file__).resolve().parents[2] / "params.yaml").read_bytes()
HEAD, ROUNDS = COMMITTED.split(b"\nrounds:")
SEALED = b"# Sealed rounds\nr001: {parent: r000}\nr002: {parent: r001, advantage: {kl_coef: 0.1}, seed: 3}\n"
ODD_YAML = [
    "a: 2001-99-99",
    "a: 2001-01-01T25:61:61Z",
    "a: !!int x",
    "a: !!float x",
    "a: !!binary x",
    "a: !!timestamp x",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "a: &x [*x]",
    "&x a: *x",
    "rounds: &x {r001: *x}",
    "&x\nrounds: *x",
    "a: !!python/name:os.system",
    "a: 9" + "9" * 5000,
    "a: 0x" + "f" * 50,
    "[" * 400,
    "{" * 400,
    "a:\n" + "- " * 400,
    '"\\ud83d": 1',
    'a: "\\ud83d"',
    '"\\ud83d": {"\\ud83d": 1}',
    "a: 0o9",
    "a: 1e99999",
    "a: 1__0",
    "a: 0b2",
    "a: -.inf",
    "%YAML 9.9\n---\na: 1",
    "%TAG ! x\n---\na: !y 1",
    "---\n---\n",
    "a: 1\n...\nb: 2",
    "null: 1",
    "1.5: 2",
    "true: {}",
    "2001-01-01: 1",
    "seed: !!set {a, b}",
    "seed: !!omap [a: 1]",
    "<<: {a: 1}",
    "<<: [1]",
    "<<: *x",
    "a: !!null 1",
    "a: 1:99:99",
    "a: !!bool maybe",
    "!!map [a]",
    "!!seq {a: 1}",
    "\ta: 1",
    "a: |\n\tb",
    "a: \x07",
    "\ufeffa: 1",
    "a: 'b",
    "a: *",
    "a: &",
    "rounds: {r001: {parent: !!binary cjAwMA==}}",
    "rounds: {!!binary cjAwMQ==: {parent: r000}}",
    "a: 12:30:45.9999999999999999999",
    f"seed: 0x{'f' * 4000}",
    f"a: 0x{'f' * 4000}",
]


@pytest.mark.parametrize("text", ODD_YAML, ids=range(len(ODD_YAML)))
def test_yaml_that_few_expect(text: str, tmp_path: Path) -> None:
    for content in (
        text,
        f"{HEAD.decode()}\n{text}\n",
        f"{HEAD.decode()}\nrounds: {{r001: {{parent: r000}}}}\n{text}\n",
    ):
        (tmp_path / "params.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
        declared(lambda: load_params(tmp_path / "params.yaml"), "params.yaml")
    (tmp_path / "rounds.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    declared(lambda: read_sealed(tmp_path / "rounds.yaml"), "rounds.yaml")


@examples(40)
@given(EDITS)
def test_damaged_params(tmp_path_factory: pytest.TempPathFactory, edits) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_bytes(damaged(COMMITTED, edits))
    declared(lambda: load_params(path), "params.yaml")


@examples(80)
@given(EDITS)
def test_damaged_lists_of_sealed_rounds(tmp_path_factory: pytest.TempPathFactory, edits) -> None:
    path = tmp_path_factory.getbasetemp() / "rounds.yaml"
    path.write_bytes(damaged(SEALED, edits))
    declared(lambda: read_sealed(path), "rounds.yaml")


def stage_files() -> dict[str, dict[str, Any]]:
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    return {
        name: json.loads(cls.of(params, "r001").model_dump_json(by_alias=True)) for name, cls in ROUND_STAGES.items()
    }


STAGES = stage_files()


@pytest.mark.parametrize("stage", ROUND_STAGES)
@examples(25)
@given(data=st.data())
def test_stage_settings(stage: str, data, tmp_path: Path) -> None:
    good = STAGES[stage]
    path = tmp_path / "stage.json"
    any_value = changes_of(good).map(lambda value: json.dumps(value).encode())
    content = data.draw(EDITS.map(lambda e: damaged(json.dumps(good).encode(), e)) | any_value | st.binary(max_size=20))
    path.write_text(content.decode("utf-8", "replace"), encoding="utf-8", newline="")
    declared(lambda: read_settings(ROUND_STAGES[stage], path), "stage.json")


LOCK = """schema: '2.0'
stages:
  rollout@r001:
    cmd: python -m stages rollout --round r001
    outs:
    - path: data/rounds/r001/rollouts.parquet
      hash: md5
      md5: d41d8cd98f00b204e9800998ecf8427e
      size: 0
  update@r001:
    cmd: python -m stages update --round r001
    outs:
    - path: metrics/stages/r001/update.json
      md5: d41d8cd98f00b204e9800998ecf8427e
"""


@examples(60)
@given(EDITS)
def test_damaged_locks(tmp_path_factory: pytest.TempPathFactory, edits) -> None:
    """What is read of dvc.lock as text, and its entries as maps."""
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("dvc.lock").write_bytes(damaged(LOCK.encode(), edits))
        blocks = declared(lock_text.read, "dvc.lock")
        if blocks is not None:
            declared(lambda: lock_text.parsed(blocks), "dvc.lock")


def test_a_folder_in_the_place_of_params(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(PipelineError, match=r"params\.yaml: not readable"):
        load_params(tmp_path / "params.yaml")
