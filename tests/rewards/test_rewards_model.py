"""Model rewards: compared with a plain transformers call per sample."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_models import POSITIONS, save_reward_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.rewards.types.model import ModelComponent
from ppo_pipeline.settings.reward_sections import Reward

RESPONSES = ["Yes.", "", "It is the longest of all the answers", "no", "A cat, a dog", "b" * 9]


def samples(responses: list[str] = RESPONSES, prompt: str = "Why?") -> Samples:
    count = len(responses)
    return Samples(
        sample_ids=[f"s{i}" for i in range(count)],
        messages=[[{"role": "user", "content": f"{prompt}{i}"}] for i in range(count)],
        prompt_texts=[f"<|user|>{prompt}{i}" for i in range(count)],
        responses=list(responses),
        response_ids=[[0]] * count,
        columns={},
    )


def component(folder: Path, **changes: Any) -> ModelComponent:
    values = {
        "type": "model", "name": "helpful", "weight": 1.0, "model": str(folder), "revision": None,
        "pickled_weights": False, "input": "pair", "label": None, "output": "logit", "max_tokens": POSITIONS,
        "too_long": "error", "ensemble": None, "batch_tokens": 96, "device": "cpu", "dtype": "fp32",
    }  # fmt: skip
    return ModelComponent(**{**values, **changes})


def plain_logits(folder: Path, *texts: str, **options: Any) -> torch.Tensor:
    """Return what transformers alone says of one text or pair."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt", **options)).logits[0]


@pytest.mark.parametrize("architecture", ["deberta-v2", "bert", "llama"])
def test_a_batch_of_pairs_scores_as_one_call_per_sample(tmp_path: Path, architecture: str) -> None:
    folder = save_reward_model(tmp_path / "model", architecture)
    given = samples()
    expected = [plain_logits(folder, m[0]["content"], r).item() for m, r in zip(given.messages, RESPONSES, strict=True)]
    assert max(expected) - min(expected) > 0.01
    assert component(folder).score(given) == pytest.approx(expected, abs=1e-5)
    assert component(folder, batch_tokens=10_000).score(given) == pytest.approx(expected, abs=1e-5)


def test_concat_reads_the_prompt_as_the_policy_saw_it_and_chat_uses_the_model_s_template(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    given = samples()
    concat = [plain_logits(folder, f"<|user|>Why?{i}{r}").item() for i, r in enumerate(RESPONSES)]
    chat = [
        plain_logits(folder, f"<|user|>Why?{i}<|end|><|assistant|>{r}<|end|>", add_special_tokens=False).item()
        for i, r in enumerate(RESPONSES)
    ]
    assert component(folder, input="concat").score(given) == pytest.approx(concat, abs=1e-5)
    assert component(folder, input="chat").score(given) == pytest.approx(chat, abs=1e-5)
    assert concat != pytest.approx(chat, abs=1e-3)


def test_a_label_is_chosen_by_name_or_index_as_logit_or_probability(tmp_path: Path) -> None:
    names = {0: "bad", 1: "good", 2: "other"}
    folder = save_reward_model(tmp_path / "model", labels=3, id2label=names, label2id={n: i for i, n in names.items()})
    given = samples()
    logits = torch.stack([plain_logits(folder, f"Why?{i}", r) for i, r in enumerate(RESPONSES)])
    expected = logits[:, 1].tolist()
    assert component(folder, label="good").score(given) == pytest.approx(expected, abs=1e-5)
    assert component(folder, label=1).score(given) == pytest.approx(expected, abs=1e-5)
    shares = (logits.exp() / logits.exp().sum(1, keepdim=True))[:, 1].tolist()
    found = component(folder, label="good", output="probability").score(given)
    assert found == pytest.approx(shares, abs=1e-5)
    with pytest.raises(PipelineError, match=r"label: the model has 3 labels, name one: 0 'bad', 1 'good'"):
        component(folder).score(given)
    with pytest.raises(PipelineError, match=r"no label 'goood'\. Did you mean 'good'\? It has: 0 'bad'"):
        component(folder, label="goood").score(given)


def test_the_probability_of_a_single_label_is_the_sigmoid(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    logit = plain_logits(folder, "Why?0", "Yes.").item()
    found = component(folder, output="probability").score(samples(["Yes."]))
    assert found == pytest.approx([1 / (1 + 2.718281828459045**-logit)], abs=1e-5)


def test_a_model_without_a_padding_token_is_asked_one_by_one(tmp_path: Path) -> None:
    """Llama takes the last token that is no padding; without a padding token a batch is refused by transformers."""
    folder = save_reward_model(tmp_path / "model", "llama", pad_token_id=None)
    expected = [plain_logits(folder, f"Why?{i}", r).item() for i, r in enumerate(RESPONSES)]
    assert component(folder, batch_tokens=10_000).score(samples()) == pytest.approx(expected, abs=1e-5)


def test_too_long_is_an_error_or_cut_where_it_was_said_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_reward_model(tmp_path / "model")
    given = samples(["short", "abcdefghij"], prompt="0123456789" * 2)
    with pytest.raises(PipelineError, match=r"sample 's1': 34 tokens, max_tokens is 30"):
        component(folder, max_tokens=30).score(given)
    capsys.readouterr()
    cut_start = component(folder, max_tokens=30, too_long="cut_start").score(given)
    told = capsys.readouterr().out
    assert "reward 'helpful': 1 of 2 inputs were cut at the start to 30 tokens, the first is sample 's1'" in told
    cut_end = component(folder, max_tokens=30, too_long="cut_end").score(given)
    assert "cut at the end" in capsys.readouterr().out
    prompt = "0123456789" * 2 + "1"
    whole = plain_logits(folder, "0123456789" * 2 + "0", "short").item()
    start, end = plain_logits(folder, prompt[4:], "abcdefghij"), plain_logits(folder, prompt, "abcdef")
    assert cut_start == pytest.approx([whole, start.item()], abs=1e-5)
    assert cut_end == pytest.approx([whole, end.item()], abs=1e-5)
    with pytest.raises(PipelineError, match="sample 's1': the response alone is longer than max_tokens, 12"):
        component(folder, max_tokens=12, too_long="cut_start").score(samples(["a", "b" * 20], prompt=""))
    component(folder).score(given)
    assert capsys.readouterr().out == ""


def test_concat_and_chat_are_cut_at_the_end_that_was_said(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    given = samples(["abcdefghij"], prompt="0123456789")
    text = "<|user|>01234567890abcdefghij"
    found = component(folder, input="concat", max_tokens=20, too_long="cut_start").score(given)
    assert found == pytest.approx([plain_logits(folder, text[-18:]).item()], abs=1e-5)
    found = component(folder, input="concat", max_tokens=20, too_long="cut_end").score(given)
    assert found == pytest.approx([plain_logits(folder, text[:18]).item()], abs=1e-5)


def test_nan_logits_name_component_and_sample(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(PipelineError, match="reward 'helpful': sample 's0': nan is not a finite number"):
        score_samples(Reward(correct=None, components=[component(folder)]), samples())


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model", vocab_size=40)
    with pytest.raises(PipelineError, match=r"the tokenizer gives token \d+, the model knows 40 tokens"):
        component(folder).score(samples())


def test_no_template_and_too_many_tokens_are_refused(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model", chat_template=None)
    with pytest.raises(PipelineError, match="input: chat: the reward model has no chat template"):
        component(folder, input="chat").score(samples())
    with pytest.raises(PipelineError, match="max_tokens is 97, the model has 96 positions"):
        component(folder, max_tokens=97).score(samples())
    assert component(folder).score(samples([])) == []
    assert json.loads((folder / "config.json").read_text())["model_type"] == "deberta-v2"
