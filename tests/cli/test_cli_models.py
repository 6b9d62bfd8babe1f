"""`ppo-pipeline export`: the policy as it is, and nothing of the user's is lost. test_cli_chat.py has `chat`."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import policy_settings, save_tiny, tiny_model, tiny_tokenizer
from safetensors.torch import load_file
from supervised_entries import sft_values

from ppo_pipeline.cli.main import main
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
BASE, POLICY = Path("data/base"), Path("data/rounds/r001/policy")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a tiny base and the policy of one round, far enough from it to answer otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    text = COMMITTED.read_text().replace("device: auto", "device: cpu").replace("dtype: auto", "dtype: fp32")
    Path("params.yaml").write_text(text)
    save_tiny(BASE)
    model = tiny_model("llama")
    settings = policy_settings()
    layers = add_lora(model, settings.target_modules, 4, 8, 0.0)
    init_lora(layers, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.3)
    save_policy(Policy(model, layers, ValueHead(32)), adapter_config(settings, "base", layers, model), POLICY)


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result


def files() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


def test_export_keeps_logits_dtype_and_tokenizer() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = run("export", "--round", "r001", "out").output
    assert "from_pretrained('out')" in output
    exported, policy = AutoModelForCausalLM.from_pretrained("out", dtype="auto"), tiny_model("llama")
    attach_policy(policy, POLICY)
    ids = torch.arange(20)[None] * 11 % 250
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, policy(ids).logits, atol=1e-4, rtol=1e-4)
    assert exported.dtype == torch.float32
    assert AutoTokenizer.from_pretrained("out").chat_template == tiny_tokenizer().chat_template
    assert Path("out/generation_config.json").is_file()
    assert not list(Path("out").glob("adapter*"))


def test_export_saves_in_the_bases_own_dtype() -> None:
    from transformers import AutoModelForCausalLM

    shutil.rmtree(BASE)
    tiny_model("llama").to(torch.bfloat16).save_pretrained(BASE)
    tiny_tokenizer().save_pretrained(BASE)
    run("export", "--round", "r001", "out")
    assert AutoModelForCausalLM.from_pretrained("out", dtype="auto").dtype == torch.bfloat16


def test_the_policy_is_merged_into_the_model_that_it_starts_from() -> None:
    from ruamel.yaml import YAML

    params = YAML().load(Path("params.yaml"))
    params["sft"], params["policy"]["start"] = {"chat": sft_values()}, "data/sft/chat"
    YAML().dump(params, Path("params.yaml"))
    assert "`dvc repro sft@chat` makes it" in run("export", "--round", "r001", "out", code=1).output
    tiny_model("llama", seed=5).save_pretrained("data/sft/chat")
    tiny_tokenizer().save_pretrained("data/sft/chat")
    run("export", "--round", "r001", "out")
    found, started = (load_file(f"{folder}/model.safetensors") for folder in ("out", "data/sft/chat"))
    assert torch.equal(found["model.embed_tokens.weight"], started["model.embed_tokens.weight"])
    assert "is a base model" in run("export", "--round", "r001", "--overwrite", "data/sft/chat", code=1).output


@pytest.mark.parametrize(
    "target", ["data", "data/base", "data/base/sub", "data/rounds/r001/policy", ".", "notes", "a.txt"]
)
def test_overwrite_deletes_nothing_but_an_exported_model(target: str) -> None:
    Path("notes").mkdir()
    Path("notes/thesis.txt").write_text("years")
    Path("a.txt").write_text("text")
    before = files()
    run("export", "--round", "r001", "--overwrite", target, code=1)
    assert files() == before


def test_overwrite_takes_a_link_to_the_base_for_the_base() -> None:
    Path("link").symlink_to("data/base")
    before = files()
    assert "is a base model" in run("export", "--round", "r001", "--overwrite", "link", code=1).output
    assert files() == before


def test_overwrite_replaces_an_earlier_export_and_fills_an_empty_folder() -> None:
    run("export", "--round", "r001", "out")
    Path("out/stale.safetensors").write_text("of another model")
    assert "exists already" in run("export", "--round", "r001", "out", code=1).output
    run("export", "--round", "r001", "--overwrite", "out")
    assert not Path("out/stale.safetensors").exists()
    Path("empty").mkdir()
    run("export", "--round", "r001", "--overwrite", "empty")
    assert Path("empty/config.json").is_file()


def test_a_failed_export_leaves_the_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run("export", "--round", "r001", "out")
    before = files()

    def fail(folder: Path) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr("ppo_pipeline.models.loading.load_tokenizer", fail)  # after the weights are written
    result = CliRunner().invoke(main, ["export", "--round", "r001", "--overwrite", "out"])
    assert isinstance(result.exception, OSError)
    assert files() == before


@pytest.mark.parametrize(
    "command", [["export", "--round", "r000", "out"], ["chat", "--round", "r000", "--prompt", "x"]]
)
def test_the_untrained_policys_stage_is_called_init(command: list[str]) -> None:
    assert "dvc repro init" in run(*command, code=1).output


def test_export_without_a_base_says_which_stage_makes_it() -> None:
    shutil.rmtree(BASE)
    assert "dvc repro base" in run("export", "--round", "r001", "out", code=1).output
