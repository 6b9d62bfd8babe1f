"""`ppo_pipeline.open`: what it returns is what lies in the files; it is light, and refuses by name."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import lora_policy, policy_settings, save_tiny, tiny_model, tiny_tokenizer
from report_project import TEXTS, write_project

import ppo_pipeline
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.policy import Policy

ROUNDS = {"r001": "r000", "r002": "r001", "r002b": "r001"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is not the working folder, as all these tests have it."""
    return write_project(tmp_path_factory.mktemp("project"), ROUNDS, 5)


@pytest.mark.parametrize("table", ["rollouts", "rewards", "reference", "advantages"])
def test_a_table_is_the_file(folder: Path, table: str) -> None:
    found = getattr(ppo_pipeline.open(folder), table)("r002")
    assert found.to_pylist() == pq.read_table(folder / f"data/rounds/r002/{table}.parquet").to_pylist()
    assert found.num_rows == 5


def test_prompts_and_evaluation_are_the_files(folder: Path) -> None:
    run = ppo_pipeline.open(str(folder))
    assert run.prompts().to_pylist() == pq.read_table(folder / "data/prompts.parquet").to_pylist()
    assert run.evaluation("r000").column("response_text").to_pylist() == [answer for _, answer in TEXTS]


def test_samples_have_the_numbers_of_all_tables(folder: Path) -> None:
    run = ppo_pipeline.open(folder)
    rows, reference = run.samples("r001").to_pylist(), run.reference("r001").to_pylist()
    assert [row["score"] for row in rows] == run.rewards("r001").column("score").to_pylist()
    for row, numbers in zip(rows, reference, strict=True):
        pairs = zip(numbers["policy_logprobs"], numbers["reference_logprobs"], strict=True)
        assert row["kl"] == pytest.approx(sum(a - b for a, b in pairs), abs=1e-5)
        assert row["tokens"] == len(row["response_ids"])
    assert {row["prompt"] for row in rows} <= {prompt for prompt, _ in TEXTS}


def test_metrics_have_a_row_per_round(folder: Path) -> None:
    rows = ppo_pipeline.open(folder).metrics().to_pylist()
    assert [(row["round"], row["parent"], row["depth"]) for row in rows] == [
        ("r000", "", 0), ("r001", "r000", 1), ("r002", "r001", 2), ("r002b", "r001", 2)
    ]  # fmt: skip
    assert rows[0]["objective/kl"] is None
    for row in rows:
        written = json.loads((folder / f"metrics/rounds/{row['round']}.json").read_text())
        assert {name: row[name] for name in written} == written


def test_the_stages_own_metrics_come_first_and_name_the_best_round(folder: Path) -> None:
    for name, score in (("r000", 0.5), ("r001", 0.9), ("r002", 0.7)):
        file = folder / f"metrics/stages/{name}/evaluate.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"eval/scores": score, "eval/correct": 1 - score}))
    run = ppo_pipeline.open(folder)
    assert run.metrics().column("eval/scores").to_pylist()[:3] == [0.5, 0.9, 0.7]
    assert (run.best(), run.best("eval/correct")) == ("r001", "r000")


def test_a_policy_is_a_plain_model_with_its_adapter_merged(folder: Path) -> None:
    save_tiny(folder / "data/base")
    base = tiny_model("llama")
    settings = policy_settings()
    policy: Policy = lora_policy(base, settings.target_modules)
    save_policy(policy, adapter_config(settings, "base", policy.layers, base), folder / "data/rounds/r001/policy")
    model, tokenizer = ppo_pipeline.open(folder).policy("r001")
    ids = tokenizer("say a", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [tiny_tokenizer()("say a")["input_ids"]]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, base(ids).logits, atol=1e-4, rtol=1e-4)
        assert (model(ids).logits - tiny_model("llama")(ids).logits).abs().max() > 0.1
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_a_round_has_its_own_settings(folder: Path) -> None:
    run = ppo_pipeline.open(folder)
    assert run.settings("r002b").advantage.kl_coef == 0.2 != run.settings("r002").advantage.kl_coef
    assert run.rounds == ["r000", *ROUNDS]


def test_what_is_not_there_is_named(folder: Path) -> None:
    run = ppo_pipeline.open(folder)
    with pytest.raises(PipelineError, match=r"no round 'r2'\. Did you mean 'r002'"):
        run.rollouts("r2")
    with pytest.raises(PipelineError, match="r000 is the untrained policy"):
        run.rewards("r000")
    with pytest.raises(PipelineError, match="dvc repro update@r002b"):
        run.policy("r002b")
    with pytest.raises(PipelineError, match="no such file"):
        ppo_pipeline.open(folder / "data")


def test_opening_imports_no_torch_and_the_package_alone_not_even_pyarrow(folder: Path) -> None:
    heavy = "print(*[m for m in ('torch', 'transformers', 'pyarrow', 'click', 'pydantic') if m in sys.modules]);"
    opened = "ppo_pipeline.open(sys.argv[1]).rollouts('r001');"
    program = f"import sys, ppo_pipeline; {heavy} {opened} {heavy}"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == ""
    assert "torch" not in second.split() and "transformers" not in second.split()
