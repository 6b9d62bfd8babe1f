"""The decoder against transformers' own generate."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, tiny_model

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.sampling.decoder import Decoder, Request, Response
from ppo_pipeline.sampling.streams import uniforms

STOP = 257


def prompts(count: int = 9, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size=rng.integers(1, 14)).tolist() for _ in range(count)]


def sampled(model, requests_of, batch_size: int, new_tokens: int = 20, temperature: float = 1.0) -> list[Response]:
    return Decoder(model, [STOP], new_tokens, temperature, batch_size).decode(requests_of)


def requests(count: int = 9, new_tokens: int = 20) -> list[Request]:
    return [Request(p, uniforms(0, f"s{i}", new_tokens)) for i, p in enumerate(prompts(count))]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_equals_generate(architecture: str, batch_size: int) -> None:
    model = tiny_model(architecture)
    found = sampled(model, [Request(p, None) for p in prompts()], batch_size)
    for prompt, response in zip(prompts(), found, strict=True):
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=20,
            eos_token_id=STOP, pad_token_id=STOP,
        )  # fmt: skip
        assert response.ids == out[0, len(prompt) :].tolist()


def test_logprobs_are_those_of_a_plain_forward(architecture: str) -> None:
    model = tiny_model(architecture)
    temperature = 0.7
    for prompt, response in zip(prompts(), sampled(model, requests(), 4, temperature=temperature), strict=True):
        ids = torch.tensor([prompt + response.ids])
        with torch.no_grad():
            expected = torch.log_softmax(model(ids).logits[0] / temperature, -1)
        chosen = expected[len(prompt) - 1 : -1].gather(1, torch.tensor(response.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(response.logprobs), chosen, atol=1e-4)


def test_batch_size_and_order_do_not_choose_the_text(architecture: str) -> None:
    model = tiny_model(architecture)
    wanted = [c.ids for c in sampled(model, requests(), 16)]
    assert [c.ids for c in sampled(model, requests(), 1)] == wanted
    assert [c.ids for c in sampled(model, requests(), 4)] == wanted
    assert [c.ids for c in sampled(model, requests()[::-1], 4)] == wanted[::-1]
    assert len({tuple(ids) for ids in wanted}) == len(wanted)


def test_samples_of_one_prompt_share_its_prefill_and_differ() -> None:
    model = tiny_model("qwen2")
    prompt = prompts()[0]
    same = [Request(prompt, uniforms(0, f"k{k}", 20)) for k in range(6)]
    together = [c.ids for c in sampled(model, same, 6)]
    assert together == [sampled(model, [r], 1)[0].ids for r in same]
    assert len({tuple(ids) for ids in together}) == 6


def test_ends_at_a_stop_token_or_at_the_limit() -> None:
    model = tiny_model("llama")
    found = sampled(model, requests(40), 8)
    assert {c.finish_reason for c in found} == {"length"} or any(c.ids[-1] == STOP for c in found)
    every = range(0, VOCABULARY, 3)
    stopped = Decoder(model, every, 20, 1.0, 8).decode(requests(40))
    reasons = {c.finish_reason for c in stopped}
    assert "stop" in reasons
    for response in stopped:
        ended = [token % 3 == 0 for token in response.ids]
        assert not any(ended[:-1])
        assert ended[-1] == (response.finish_reason == "stop")
        assert response.finish_reason == "stop" or len(response.ids) == 20
        assert len(response.ids) == len(response.logprobs)


def test_reports_every_token_and_every_end() -> None:
    counted = np.zeros(2, int)

    def count(tokens: int, done: int) -> None:
        counted[:] += tokens, done

    found = Decoder(tiny_model("llama"), range(0, VOCABULARY, 3), 20, 1.0, 4).decode(requests(), count)
    assert counted.tolist() == [sum(len(c.ids) for c in found), len(found)]


def test_first_tokens_follow_the_softmax() -> None:
    """Chi-square over the first token of one prompt, tail pooled; fails for a wrong temperature."""
    model, prompt, count, temperature = tiny_model("llama", scale=0.6), [5, 6, 7], 4000, 1.3
    drawn = Decoder(model, [STOP], 1, temperature, 1000).decode(
        [Request(prompt, uniforms(1, str(i), 1)) for i in range(count)]
    )
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, -1).double().numpy()
    observed = np.bincount([c.ids[0] for c in drawn], minlength=VOCABULARY)
    common = probabilities * count >= 10
    expected = np.append(probabilities[common], probabilities[~common].sum()) * count
    found = np.append(observed[common], observed[~common].sum())
    statistic = ((found - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    assert degrees >= 10
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


def test_too_long_for_the_model_is_refused_before_decoding() -> None:
    with pytest.raises(PipelineError, match="the model has 256"):
        Decoder(tiny_model("llama"), [STOP], 250, 1.0, 4).decode(requests(new_tokens=250))
