"""Truncated and greedy sampling through the decoder and the stage `rollout`, against plain forwards and generate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from conftest import save_tiny, tiny_model, tiny_tokenizer
from ruamel.yaml import YAML
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ppo_pipeline.project.paths import Paths
from ppo_pipeline.sampling.decoder import Decoder, Request, Response
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import RolloutSettings
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from stages.__main__ import main

PATHS = Paths("r001", "r000")
SETTINGS = PATHS.settings("rollout")
STOP, NEW, TEMPERATURE = 257, 12, 0.9
COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
RULE, WARPERS = Truncation(20, 0.9, 0.05), [TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]


def requests(count: int = 9) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(rng.integers(0, 256, rng.integers(1, 9)).tolist(), uniforms(0, f"s{i}", NEW)) for i in range(count)]


def forward(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Return the logits of each response token, divided by the temperature, in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1].double() / TEMPERATURE


def check_truncated(model: Any, prompt: list[int], ids: list[int], logprobs: list[float], kept: list[float]) -> None:
    """Every token is one that transformers' rules keep; its logprob and mass are the full softmax's."""
    scaled = forward(model, prompt, ids)
    keep = LogitsProcessorList(WARPERS)(torch.zeros(len(ids), 1, dtype=torch.long), scaled) > float("-inf")
    full, chosen = torch.softmax(scaled, -1), torch.tensor(ids)[:, None]
    assert keep.gather(1, chosen).all()
    torch.testing.assert_close(torch.tensor(kept).double(), (full * keep).sum(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(logprobs).double(), full.gather(1, chosen)[:, 0].log(), atol=1e-4, rtol=0)


def decoded(model: Any, wanted: list[Request], batch_size: int = 4, rule: Truncation | None = RULE) -> list[Response]:
    return Decoder(model, [STOP], NEW, TEMPERATURE, batch_size, rule).decode(wanted)


def test_the_decoder_draws_only_kept_tokens(architecture: str) -> None:
    model = tiny_model(architecture, scale=0.7)
    found = decoded(model, requests())
    for request, c in zip(requests(), found, strict=True):
        assert len(c.ids) == len(c.logprobs) == len(c.kept_mass)
        check_truncated(model, request.prompt_ids, c.ids, c.logprobs, c.kept_mass)
    masses = [m for c in found for m in c.kept_mass]
    assert 0 < min(masses) < max(masses) <= 1
    plain = decoded(model, requests(), rule=None)
    assert [c.ids for c in plain] != [c.ids for c in found]
    assert all(m == 1 for c in plain for m in c.kept_mass)


def test_batch_size_and_order_do_not_choose_a_truncated_text() -> None:
    model = tiny_model("llama", scale=0.7)
    wanted = [c.ids for c in decoded(model, requests(), 16)]
    assert [c.ids for c in decoded(model, requests(), 1)] == wanted
    assert [c.ids for c in decoded(model, requests()[::-1])] == wanted[::-1]


def test_an_empty_rule_gives_the_same_bits_as_none() -> None:
    model = tiny_model("llama")
    assert decoded(model, requests(), rule=Truncation()) == decoded(model, requests(), rule=None)


@pytest.mark.parametrize("rule", [Truncation(top_k=1), Truncation(top_p=1e-6), Truncation(min_p=1.0)])
def test_a_single_kept_token_is_the_greedy_one(rule: Truncation) -> None:
    """Its kept mass is its own probability, with which greedy decoding reports it too."""
    model = tiny_model("llama")
    greedy = decoded(model, [Request(r.prompt_ids, None) for r in requests()])
    for one, other in zip(decoded(model, requests(), rule=rule), greedy, strict=True):
        assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert other.kept_mass == pytest.approx(np.exp(other.logprobs), abs=1e-6)
        assert one.kept_mass == pytest.approx(other.kept_mass, abs=1e-5)


PROMPT_TEXTS = ["a", "bc", "def"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("rollout") / "base")
    tiny_model("llama", scale=0.7).save_pretrained(folder)
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the stage with these settings of `rollout`; its policy is the base itself."""
    monkeypatch.chdir(tmp_path)
    SETTINGS.parent.mkdir(parents=True)
    for link in (PATHS.base, PATHS.parent_policy):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(base)
    messages = [[{"role": "user", "content": text}] for text in PROMPT_TEXTS]
    PROMPTS.write(pa.table({"prompt_id": ["p", "q", "r"], "messages": messages, "split": ["train"] * 3}), PATHS.prompts)
    PROMPT_SCORES.write(PROMPT_SCORES.arrow.empty_table(), PATHS.parent_prompt_scores)
    data = YAML(typ="safe").load(COMMITTED)
    data["compute"] |= {"device": "cpu", "dtype": "fp32"}

    def start(**settings: Any) -> tuple[Any, pa.Table | None]:
        sizes = {"prompts_per_round": 3, "max_new_tokens": NEW, "temperature": TEMPERATURE, "batch_size": 4}
        rollouts = {**data["rollout"], **sizes, "samples_per_prompt": 2, **settings}
        update = {**data["update"], "minibatches": 1}
        YAML().dump({**data, "rollout": rollouts, "update": update}, Path("params.yaml"))
        of_stage = RolloutSettings.of(load_params(Path("params.yaml")), "r001")
        SETTINGS.write_text(of_stage.model_dump_json(by_alias=True))
        result = CliRunner().invoke(main, ["rollout", "r001"])
        return result, ROLLOUTS.read(PATHS.rollouts) if result.exit_code == 0 else None

    return start


def test_the_stage_samples_truncated(run: Any, base: Path) -> None:
    result, table = run(top_k=20, top_p=0.9, min_p=0.05)
    assert result.exit_code == 0, result.output
    assert sorted(table["sample_id"].to_pylist()) == [f"r001-{p}-{k}" for p in "pqr" for k in (0, 1)]
    assert len({tuple(ids) for ids in table["response_ids"].to_pylist()}) == 6
    model = tiny_model("llama", scale=0.7)
    for row in table.to_pylist():
        check_truncated(model, row["prompt_ids"], row["response_ids"], row["rollout_logprobs"], row["kept_mass"])
    assert run(top_k=20, top_p=0.9, min_p=0.05)[1].equals(table)
    assert not run()[1].equals(table)


def test_the_stage_s_greedy_texts_are_generate_s(run: Any) -> None:
    result, table = run(greedy=True, samples_per_prompt=1)
    assert result.exit_code == 0, result.output
    model = tiny_model("llama", scale=0.7)
    for row in table.to_pylist():
        prompt = torch.tensor([row["prompt_ids"]])
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW, eos_token_id=STOP,
            pad_token_id=STOP,
        )  # fmt: skip
        assert row["response_ids"] == out[0, prompt.shape[1] :].tolist()
        assert row["kept_mass"] == pytest.approx(np.exp(row["rollout_logprobs"]), abs=1e-6)


def test_stop_tokens_end_the_stage_s_responses(run: Any) -> None:
    """Sampling does not change before the first of them."""
    free = run()[1]
    letters = [chr(code) for code in range(33, 127)]
    result, table = run(stop_tokens=letters)
    assert result.exit_code == 0, result.output
    stops = set(tiny_tokenizer()("".join(letters))["input_ids"]) | {STOP}
    assert "stop" in table["finish_reason"].to_pylist()
    for ids, whole in zip(table["response_ids"].to_pylist(), free["response_ids"].to_pylist(), strict=True):
        first = next((t for t, token in enumerate(whole) if token in stops), len(whole) - 1)
        assert ids == whole[: first + 1]
    tokenizer = tiny_tokenizer()
    for row in table.to_pylist():
        ended = row["finish_reason"] == "stop" and row["response_ids"][-1] in stops
        shown = row["response_ids"][:-1] if ended else row["response_ids"]
        assert row["response_text"] == tokenizer.decode(shown, skip_special_tokens=True)
        assert row["finish_reason"] == "length" or not set(letters) & set(row["response_text"])
    result, _ = run(stop_tokens=["ab"])
    assert result.exit_code == 1
    assert "rollout.stop_tokens: 'ab' is 2 tokens" in result.output


def test_the_first_round_checks_the_prompts_of_all_rounds_and_both_splits(run: Any, base: Path) -> None:
    """A prompt that is drawn in round 7 must not stop it there; no model is loaded, the policy is no folder."""
    assert run()[0].exit_code == 0
    PATHS.parent_policy.unlink()
    for split in ("heldout", "train"):
        rows = PROMPTS.read(PATHS.prompts).to_pylist()[:3]
        rows += [{"prompt_id": f"x{i}", "messages": [{"role": "user", "content": c * 90}]} for i, c in enumerate("ab")]
        PROMPTS.write(pa.Table.from_pylist([{**row, "split": row.get("split", split)} for row in rows]), PATHS.prompts)
        settings = json.loads(SETTINGS.read_text())
        settings["rollout"] |= {"max_prompt_tokens": 80, "prompts_per_round": 1}
        drawn = {}
        for depth in (1, 2):
            SETTINGS.write_text(json.dumps({**settings, "depth": depth}))
            drawn[depth] = CliRunner().invoke(main, ["rollout", "r001"])
        assert "prompt 'x0' has" in drawn[1].output
        assert "has 93 tokens, rollout.max_prompt_tokens is 80 (1 more too long, the longest has 93)" in drawn[1].output
        assert split == "train" or f"{PATHS.parent_policy}/adapter_config.json" in drawn[2].output


def test_a_model_without_a_chat_template_is_told_once(run: Any, base: Path, tmp_path: Path) -> None:
    words = "the model has no chat template: prompts are given to it as plain text"
    assert words not in run()[0].output
    (base / "chat_template.jinja").rename(tmp_path / "template")
    assert run()[0].output.count(words) == 1
    settings = json.loads(SETTINGS.read_text())
    SETTINGS.write_text(json.dumps({**settings, "depth": 2}))
    result = CliRunner().invoke(main, ["rollout", "r001"])
    (tmp_path / "template").rename(base / "chat_template.jinja")
    assert result.exit_code == 0, result.output
    assert words not in result.output
