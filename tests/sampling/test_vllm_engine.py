"""The engine on vLLM against our decoder, transformers, PEFT and the odds. `make vllm-test` runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make vllm-test")

from peft import PeftModel
from served_models import assert_same_draws, opened, save_adapter, served_adapter, served_base
from transformers import AutoModelForCausalLM

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.sampling.engines.vllm_engine import served
from ppo_pipeline.sampling.generate import Model, Sampling, open_engine
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation

CPU, LENGTH = torch.device("cpu"), 12
PROMPTS = [[65 + i, 70, 75 + 3 * i, *range(97, 97 + 2 * i)] for i in range(10)]
SAMPLED = [Request(PROMPTS[i // 2], uniforms(0, f"sample-{i}", LENGTH)) for i in range(20)]
GREEDY = [Request(ids, None) for ids in PROMPTS]
CUT = Truncation(40, 0.9, 0.01)
PACKAGED = Path(__file__).parents[2] / "data/base"


def engine(name: str, base: Path, policy: Path | None = None, **sampling: Any) -> Any:
    return opened(name, base, policy, **{"max_new_tokens": LENGTH, "max_prompt_tokens": 40, **sampling})


base = pytest.fixture(scope="module")(served_base)
adapter = pytest.fixture(scope="module")(served_adapter)


@pytest.fixture(scope="module")
def plain(base: Path) -> Any:
    return engine("vllm", base)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"temperature": 1.3, "truncation": CUT, "batch_size": 3}])
@pytest.mark.parametrize("policy", [False, True])
def test_it_draws_what_our_decoder_draws(base: Path, adapter: Path, how: dict, policy: bool) -> None:
    ours, theirs = (engine(name, base, adapter if policy else None, **how) for name in ("own", "vllm"))
    assert ours.stop_ids == theirs.stop_ids
    assert_same_draws(theirs.generate(SAMPLED), ours.generate(SAMPLED))
    assert_same_draws(theirs.generate(GREEDY), ours.generate(GREEDY))


def test_greedy_texts_of_the_packaged_model_are_our_decoder_s() -> None:
    if not PACKAGED.is_dir():
        pytest.skip("no data/base; `dvc repro base` makes it")
    tokenizer = load_tokenizer(PACKAGED)
    words = ("river", "stone", "music", "winter", "bread", "paper", "horse", "garden")
    asked = [[{"role": "user", "content": f"Write a sentence about {word}."}] for word in words]
    ids = [tokenizer.apply_chat_template(a, add_generation_prompt=True, return_dict=True)["input_ids"] for a in asked]
    found = [
        open_engine(Model(PACKAGED, tokenizer, None, CPU, torch.float32), Sampling(16, 8, max_prompt_tokens=64), name)
        .generate([Request(each, None) for each in ids])
        for name in ("own", "vllm")
    ]  # fmt: skip
    assert [r.text(tokenizer) for r in found[1]] == [r.text(tokenizer) for r in found[0]]


def test_logprobs_and_kept_mass_are_of_the_full_softmax(base: Path) -> None:
    """Against transformers and a loop over the vocabulary."""
    temperature = 0.8
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    cut = engine("vllm", base, temperature=temperature, truncation=Truncation(top_k=5))
    for request, response in zip(SAMPLED, cut.generate(SAMPLED), strict=True):
        ids = torch.tensor([request.prompt_ids + response.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1] / temperature
        expected = torch.log_softmax(logits, -1)
        for place, token in enumerate(response.ids):
            row = expected[place]
            assert response.logprobs[place] == pytest.approx(float(row[token]), abs=1e-4)
            assert response.kept_mass[place] == pytest.approx(float(row.exp().sort().values[-5:].sum()), abs=1e-4)
            assert token in row.topk(5).indices


def test_tokens_come_as_often_as_they_are_likely(base: Path) -> None:
    """Pearson's chi-square over the first token; tokens with fewer than 5 expected draws are one class."""
    count, temperature = 4000, 1.5
    requests = [Request(PROMPTS[3], uniforms(7, str(i), 1)) for i in range(count)]
    responses = engine("vllm", base, temperature=temperature, max_new_tokens=1, batch_size=256).generate(requests)
    drawn = np.bincount([response.ids[0] for response in responses], minlength=261)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[3]])).logits[0, -1].double()
    expected = torch.softmax(logits / temperature, -1).numpy() * count
    often = expected >= 5
    assert often.sum() > 20, "else nothing is tested"
    seen, awaited = (np.append(each[often], each[~often].sum()) for each in (drawn, expected))
    statistic, freedom = float(((seen - awaited) ** 2 / awaited).sum()), often.sum()
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom), (statistic, freedom)


def test_neither_order_nor_batch_chooses_a_token(plain: Any) -> None:
    expected = plain.generate(SAMPLED)
    assert_same_draws(plain.generate(SAMPLED[::-1])[::-1], expected)
    assert_same_draws([r for start in range(0, 20, 3) for r in plain.generate(SAMPLED[start : start + 3])], expected)
    assert len({tuple(r.ids) for r in expected}) == 20, "samples of one prompt differ"


def test_with_and_without_the_adapter_as_peft_says(base: Path, adapter: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(model, adapter)
    found = {}
    for name, policy in (("with", adapter), ("without", None)):
        found[name] = engine("vllm", base, policy).generate(SAMPLED)
        for request, response in zip(SAMPLED, found[name], strict=True):
            ids, start = torch.tensor([request.prompt_ids + response.ids]), len(request.prompt_ids) - 1
            with torch.no_grad():
                if policy is None:
                    with peft.disable_adapter():
                        logits = peft(ids).logits
                else:
                    logits = peft(ids).logits
            rows = torch.log_softmax(logits[0, start:-1], -1)
            expected = rows.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
            np.testing.assert_allclose(response.logprobs, expected.numpy(), atol=1e-4)
    assert [r.ids for r in found["with"]] != [r.ids for r in found["without"]]


def test_base_and_adapter_share_one_vllm_and_no_adapter_is_taken_for_another(base: Path, adapter: Path) -> None:
    other = save_adapter(base, base.parent / "other", seed=2)
    first = engine("vllm", base, adapter)
    before = first.generate(SAMPLED)
    without, second = engine("vllm", base), engine("vllm", base, other)
    assert without.served is first.served is second.served
    assert_same_draws(second.generate(SAMPLED), engine("own", base, other).generate(SAMPLED))
    assert_same_draws(without.generate(SAMPLED), engine("own", base).generate(SAMPLED))
    assert_same_draws(first.generate(SAMPLED), before)
    del first, without, second
    assert not any(kept.room for kept in served._in_use.values()), "its memory is given back"


def test_a_whole_model_is_served_in_place_of_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "whole")
    found = engine("vllm", base, tmp_path / "whole").generate(SAMPLED)
    assert [r.ids for r in found] == [r.ids for r in engine("own", base, adapter).generate(SAMPLED)]


def test_stop_tokens_limits_and_counts(base: Path) -> None:
    how: dict[str, Any] = {"stop_tokens": ("a", "e", "t"), "temperature": 4.0, "max_new_tokens": LENGTH}
    ours, theirs = (engine(name, base, **how) for name in ("own", "vllm"))
    counter = Counter(len(SAMPLED))
    found = theirs.generate(SAMPLED, counter)
    assert_same_draws(found, ours.generate(SAMPLED))
    assert {r.finish_reason for r in found} == {"stop", "length"}
    assert (counter.done, counter.tokens) == (20, sum(len(r.ids) for r in found))
    with pytest.raises(PipelineError, match="300 positions, the model has 256"):
        engine("vllm", base, max_prompt_tokens=None).generate([Request([65] * (300 - LENGTH), None)])
