"""Prompts from Hugging Face's datasets: folders that they saved, and those of the hub by the stage `datasets`."""

import json
from pathlib import Path
from typing import Any

import pytest
from prompts.test_prompt_sources import jsonl, prompts
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.dataset_sections import HubDataset
from ppo_pipeline.settings.params import load_params
from stages import datasets as stage

datasets = pytest.importorskip("datasets")
REPOSITORY = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"
GSM8K = {
    "source": "hf://openai/gsm8k", "revision": REVISION, "subset": None, "train": "train[:2]", "heldout": "test",
    "columns": {"prompt": "question", "solution": "answer"},
}  # fmt: skip


def rows_of(source: Path, **changes: Any) -> list[tuple[str, str, Any]]:
    table = read_prompts(prompts(source, heldout_fraction=0.0, **changes)).to_pylist()
    return [(row["messages"][-1]["content"], row["split"], row.get("answer")) for row in table]


def saved(folder: Path, *questions: str) -> Any:
    return datasets.Dataset.from_list([{"prompt": question, "answer": [1, 2]} for question in questions])


def test_a_saved_data_set_is_read_as_a_file_alone_or_in_a_folder(tmp_path: Path) -> None:
    saved(tmp_path, "b", "c").save_to_disk(str(tmp_path / "set/one"))
    assert rows_of(tmp_path / "set/one") == [("b", "train", [1, 2]), ("c", "train", [1, 2])]
    jsonl(tmp_path / "set/z.jsonl", {"prompt": "z", "answer": 3})
    assert rows_of(tmp_path / "set") == [("b", "train", [1, 2]), ("c", "train", [1, 2]), ("z", "train", [3])]


def test_splits_of_a_saved_data_set_are_those_of_the_prompts(tmp_path: Path) -> None:
    parts = {"train": saved(tmp_path, "a"), "test": saved(tmp_path, "b"), "validation": saved(tmp_path, "c")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    assert [row[:2] for row in rows_of(tmp_path / "set")] == [("a", "train"), ("b", "heldout"), ("c", "heldout")]
    datasets.DatasetDict({"train": parts["train"], "extra": parts["test"]}).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(PipelineError, match=r"odd: split 'extra'; save .* train, heldout, test, validation alone"):
        rows_of(tmp_path / "odd")
    next((tmp_path / "set/test").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(PipelineError, match="set: not readable as a saved data set"):
        rows_of(tmp_path / "set")
    saved(tmp_path, "a", "a").save_to_disk(str(tmp_path / "twice"))
    with pytest.raises(PipelineError, match=r"twice, row 2: the same prompt as in .*twice, row 1"):
        rows_of(tmp_path / "twice")


def test_classes_have_their_names(tmp_path: Path) -> None:
    labels = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features({"prompt": datasets.Value("string"), "label": labels})
    rows = {"prompt": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    table = read_prompts(prompts(tmp_path / "set", heldout_fraction=0.0))
    assert table.column("label").to_pylist() == ["Sports", "World", None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A project whose hub is a folder: what the library is asked for, with the rows of that folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    jsonl(folder / "train.jsonl", *({"question": f"q{i}", "answer": f"{i}", "id": i} for i in range(3)))
    jsonl(folder / "test.jsonl", {"question": "held", "answer": "9", "id": 9})
    load, asked = datasets.load_dataset, []

    def local(path: str, name: str | None, split: str, revision: str) -> Any:
        asked.append((path, name, split, revision))
        return load(str(folder), name, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.chdir(tmp_path)
    return asked


def project(**entry: Any) -> None:
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["datasets"] = {"sums": GSM8K | entry}
    params["prompts"]["source"] = "data/datasets/sums.parquet"
    yaml.dump(params, Path("params.yaml"))


def test_a_data_set_of_the_hub_becomes_prompts(hub: list[Any], capsys: Any) -> None:
    project()
    stage.run("sums")
    assert hub == [("openai/gsm8k", None, "train[:2]", REVISION), ("openai/gsm8k", None, "test", REVISION)]
    told = "datasets sums: 3 rows of hf://openai/gsm8k; columns: prompt (text), solution (text), split (text)"
    assert told in capsys.readouterr().out
    first = Path("data/datasets/sums.parquet").read_bytes()
    params = load_params()
    assert params.data_files == [], "the pipeline fetches it itself"
    table = read_prompts(params.prompts)
    assert [(m[0]["content"], s, a) for m, s, a in zip(
        *(table.column(name).to_pylist() for name in ("messages", "split", "solution")), strict=True
    )] == [("q0", "train", "0"), ("q1", "train", "1"), ("held", "heldout", "9")]  # fmt: skip
    stage.run("sums")
    assert Path("data/datasets/sums.parquet").read_bytes() == first


def test_without_a_held_out_split_and_with_all_columns(hub: list[Any]) -> None:
    project(heldout=None, columns={})
    stage.run("sums")
    table = datasets.Dataset.from_parquet("data/datasets/sums.parquet", cache_dir="cache")
    assert table.column_names == ["question", "answer", "id"]
    assert len(table) == 2


def test_what_cannot_be_fetched_is_named(hub: list[Any]) -> None:
    for entry, message in (
        (
            {"columns": {"prompt": "qestion"}},
            r"no column 'qestion'\. Did you mean 'question'\? It has: question, answer",
        ),
        ({"train": "dev"}, r"datasets\.sums: 'hf://openai/gsm8k', split 'dev' at 0123.* cannot be fetched: .*dev"),
    ):
        project(**entry)
        with pytest.raises(PipelineError, match=message):
            stage.run("sums")
    assert not Path("data/datasets/sums.parquet").exists()
    Path("openai/gsm8k").mkdir(parents=True)
    with pytest.raises(PipelineError, match="'openai/gsm8k' is a folder here too"):
        stage.run("sums")


def test_settings_that_pin_nothing_or_make_no_source_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes in (
        {"revision": "main"},
        {"source": "openai/gsm8k"},
        {"source": "hf://gsm8k"},
        {"columns": {"split": "s"}},
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            HubDataset(**{**GSM8K, **changes})
    monkeypatch.chdir(tmp_path)
    project()
    text = Path("params.yaml").read_text().replace("datasets/sums.parquet", "datasets/sum.parquet")
    Path("params.yaml").write_text(text)
    with pytest.raises(
        PipelineError, match=r"no entry of `datasets` makes .*sum\.parquet'; they make: .*sums\.parquet"
    ):
        load_params()


def test_dvc_fetches_again_where_the_entry_changes_and_nothing_else() -> None:
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    assert stages["datasets"]["do"]["params"] == ["datasets.${key}"]
    assert stages["datasets"]["do"]["outs"] == ["data/datasets/${key}.parquet"]
    assert "${prompts.source}" in stages["prompts"]["deps"]


def test_the_library_is_asked_for_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "set").mkdir()
    (tmp_path / "set/state.json").write_text(json.dumps({}))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PipelineError, match=r"set needs a library that is not here .*ppo-pipeline\[datasets\]"):
        rows_of(tmp_path / "set")
