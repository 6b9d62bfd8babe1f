"""`policy.tuning: full`: two rounds of real stages against plain transformers and plain AdamW."""

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from stage_runs import Stages
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_pipeline.cli.main import main
from ppo_pipeline.models.checkpoint import load_merged
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.training.split_adamw import join

TEMPERATURE = 0.7
LR, VALUE_LR = 1e-3, 1e-2
CASES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False), ("gpt2", True)]


def full(params: Any) -> None:
    params["policy"]["tuning"] = "full"
    params["update"].update(lr=LR, value_lr=VALUE_LR, weight_decay=0.01)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{'tied' if case[1] else 'untied'}")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    stages = Stages(tmp_path_factory.mktemp("full"), full, *request.param)
    stages.run("init")
    stages.run("baseline")
    stages.round("r001")
    stages.round("r002")
    return stages


def plain(project: Stages, folder: str) -> Any:
    """Load a folder as any user of transformers would."""
    path = project.folder / "data" / folder
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()


def samples(project: Stages, name: str) -> list[tuple[torch.Tensor, int]]:
    """Return each sample's ids and where its response starts."""
    prompts, responses = (project.column(f"{name}/rollouts.parquet", c) for c in ("prompt_ids", "response_ids"))
    return [(torch.tensor([p + r]), len(p)) for p, r in zip(prompts, responses, strict=True)]


def forward(model: Any, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logprobs of a response and the hidden states before its tokens, without any code of the project."""
    out = model(ids, output_hidden_states=True)
    every = torch.log_softmax(out.logits[0, start - 1 : -1] / TEMPERATURE, -1)
    return every.gather(1, ids[0, start:, None])[:, 0], out.hidden_states[-1][0, start - 1 : -1]


def close(found: list[list[float]], expected: list[torch.Tensor], tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(
        torch.tensor([x for row in found for x in row]), torch.cat(expected), atol=tolerance, rtol=tolerance
    )


def test_init_is_the_base_and_nothing_is_lost_of_it(project: Stages) -> None:
    base, policy = project.folder / "data/base", project.path("r000/policy")
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {p.name: p.read_bytes() for p in policy.iterdir()}
    assert json.loads(project.path("r000/trainer/state.json").read_text())["optimizer_step"] == 0


def test_policy_loads_in_transformers_with_its_tokenizer(project: Stages) -> None:
    base = plain(project, "base")
    for name in ("r001", "r002"):
        policy = plain(project, f"rounds/{name}/policy")
        assert set(policy.state_dict()) == set(base.state_dict())
        assert policy.config.tie_word_embeddings == base.config.tie_word_embeddings
        tokenizer = AutoTokenizer.from_pretrained(project.path(f"{name}/policy"))
        text = "<|user|>Say a<|end|>"
        assert (
            tokenizer(text)["input_ids"]
            == AutoTokenizer.from_pretrained(project.folder / "data/base")(text)["input_ids"]
        )
        assert str(project.folder) not in project.path(f"{name}/policy/config.json").read_text()
        assert "rounds/" not in project.path(f"{name}/policy/config.json").read_text()
        assert project.path(f"{name}/policy/source.json").is_file()


def test_the_reference_table_is_of_parent_and_base(project: Stages) -> None:
    """Both rounds: the parent's logprobs and values by its plain model, the base's by the base."""
    base = plain(project, "base")
    for name, parent in (("r001", "r000"), ("r002", "r001")):
        policy, head = plain(project, f"rounds/{parent}/policy"), ValueHead(32)
        tensors = load_file(project.path(f"{parent}/trainer/value_head.safetensors"))
        head.load_state_dict({k.removeprefix("value_head."): v for k, v in tensors.items()})
        found = {c: project.column(f"{name}/reference.parquet", c) for c in
                 ("policy_logprobs", "reference_logprobs", "values")}  # fmt: skip
        with torch.no_grad():
            by_policy = [forward(policy, *sample) for sample in samples(project, name)]
            close(found["policy_logprobs"], [logprobs for logprobs, _ in by_policy])
            close(found["values"], [head(hidden) for _, hidden in by_policy])
            close(found["reference_logprobs"], [forward(base, *sample)[0] for sample in samples(project, name)])
        assert (found["policy_logprobs"] == found["reference_logprobs"]) == (name == "r001")
        assert project.metrics(name)["val/ratio_first_max_deviation"] < 1e-5
        assert project.metrics(name)["val/rollout_logprob_difference"] < 1e-4, "sampled from another policy"
        assert (project.metrics(name)["objective/kl"] == 0.0) == (name == "r001")


def test_two_rounds_equal_a_slow_loop_with_one_plain_adamw(project: Stages) -> None:
    """4 full-batch steps by one optimizer over both rounds' tables: moments and step number were carried over."""
    model, head = plain(project, "base").requires_grad_(True), ValueHead(32)
    groups = [{"params": model.parameters(), "lr": LR}, {"params": head.parameters(), "lr": VALUE_LR}]
    optimizer = torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.01)
    for name in ("r001", "r002"):
        columns = [project.column(f"{name}/{table}.parquet", column) for table, column in (
            ("reference", "policy_logprobs"), ("advantages", "advantages"), ("advantages", "returns"))]  # fmt: skip
        for _ in range(2):
            optimizer.zero_grad()
            terms = []
            for sample, *numbers in zip(samples(project, name), *columns, strict=True):
                old, advantages, returns = (torch.tensor(n) for n in numbers)
                logprobs, hidden = forward(model, *sample)
                ratio = (logprobs - old).exp()
                gain = torch.minimum(advantages * ratio, advantages * ratio.clamp(0.8, 1.2))
                terms.append(-gain + 0.1 * 0.5 * (head(hidden) - returns) ** 2)
            torch.cat(terms).mean().backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
            optimizer.step()
        found = plain(project, f"rounds/{name}/policy").state_dict()
        before = plain(project, f"rounds/{project.parents[name]}/policy").state_dict()
        for key, expected in model.state_dict().items():
            assert not torch.equal(found[key], before[key]) or expected.abs().sum() == 0, f"{key} was not trained"
            torch.testing.assert_close(found[key], expected, atol=1e-4, rtol=1e-3)
        values = load_file(project.path(f"{name}/trainer/value_head.safetensors"))
        torch.testing.assert_close(
            values["value_head.linear.weight"], head.linear.weight.detach(), atol=1e-4, rtol=1e-3
        )
        moments = load_file(project.path(f"{name}/trainer/optimizer.safetensors"))
        assert {k.removesuffix(".exp_avg_sq") for k in moments if k.endswith("_sq")} == {
            *dict(model.named_parameters()), "value_head.linear.weight", "value_head.linear.bias"
        }  # fmt: skip
        for key, parameter in model.named_parameters():
            expected = optimizer.state[parameter]["exp_avg"]
            torch.testing.assert_close(moments[f"{key}.exp_avg"], expected, atol=1e-5, rtol=1e-2)
        state = json.loads(project.path(f"{name}/trainer/state.json").read_text())
        assert state["optimizer_step"] == state["value_step"] == optimizer.state[parameter]["step"]


def test_export_and_chat_take_it(project: Stages) -> None:
    with chdir(project.folder):
        result = CliRunner().invoke(main, ["export", "--round", "r002", "--overwrite", "out"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        answer = CliRunner().invoke(main, ["chat", "--round", "r002", "--prompt", "Say a", "--max-new-tokens", "3"])
        assert answer.exit_code == 0 and "r002" in answer.output, answer.output
        command = ["chat", "--round", "r002", "--split", "heldout", "--max-new-tokens", "6", "--json"]
        rows = [json.loads(line) for line in CliRunner().invoke(main, command).stdout.splitlines()]
    for side, name in (("base", "r000"), ("trained", "r002")):  # as the stages evaluated them
        assert [row[side] for row in rows] == project.column(f"{name}/eval.parquet", "response_text")
    ids = torch.arange(20)[None] * 11 % 250
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(project.folder / "out", dtype="auto")(ids).logits
        assert torch.equal(exported, plain(project, "rounds/r002/policy")(ids).logits)
        assert (exported - plain(project, "base")(ids).logits).abs().max() > 1e-3
        folder = project.path("r002/policy")
        merged = load_merged(project.folder / "data/base", folder, torch.device("cpu"), torch.float32)
        assert torch.equal(merged(ids).logits, exported)
    assert AutoTokenizer.from_pretrained(project.folder / "out")("a")["input_ids"]


def test_bf16_keeps_the_lower_halves_of_the_weights(tmp_path: Path) -> None:
    """Steps too small for most bf16 weights: they are in the checkpoint all the same, and the first ratio is 1."""

    def change(params: Any) -> None:
        full(params)
        params["compute"]["dtype"] = "bf16"
        params["update"].update(lr=1e-5, weight_decay=0.0)

    project = Stages(tmp_path, change, "llama")
    project.run("init")
    base = {k: v.bfloat16() for k, v in plain(project, "base").state_dict().items()}
    for rounds, name in enumerate(("r001", "r002"), start=1):
        project.round(name)
        policy = plain(project, f"rounds/{name}/policy")
        assert policy.dtype == torch.bfloat16
        assert project.metrics(name)["val/ratio_first_max_deviation"] < 1e-5
        moments = load_file(project.path(f"{name}/trainer/optimizer.safetensors"))
        for key, parameter in policy.named_parameters():
            moved = (join(parameter.detach(), moments[f"{key}.low"]) - base[key].float()).abs()
            trained = moments[f"{key}.exp_avg_sq"] > 0
            assert moved[trained].max() <= 2.1e-5 * rounds, "4 steps of at most the learning rate each"
            assert moved[trained].median() > 1e-6 * rounds
        assert torch.equal(policy.model.norm.weight, base["model.norm.weight"]), "bf16 alone shows no step of 1e-5 at 1"
    scores = project.path("r002/reference.parquet").read_bytes()
    project.path("r002/reference.parquet").unlink()
    project.path("r001/trainer/optimizer.safetensors").unlink()
    project.run("reference", "r002")  # most of a checkpoint's bytes are for the update alone
    assert project.path("r002/reference.parquet").read_bytes() == scores
