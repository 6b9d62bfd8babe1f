"""Truncated sampling: the kept tokens against transformers' own logits processors, and draws from them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ppo_pipeline.sampling import truncation
from ppo_pipeline.sampling.draw import draw
from ppo_pipeline.sampling.truncation import FIRST, Truncation

RULES = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10_000},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"top_k": 30, "top_p": 0.8},
    {"top_k": 500, "top_p": 0.9, "min_p": 0.1},
    {"top_p": 0.6, "min_p": 0.001},
]
VOCABULARIES = [3, 300, FIRST, FIRST + 1, 4000]
SPREADS = [0.1, 3.0]  # 0.1: nearly flat, so that the first thousand tokens do not hold top_p


def names(rules: dict) -> str:
    return "-".join(f"{name}={value}" for name, value in rules.items())


def by_transformers(logits: torch.Tensor, temperature: float, rules: dict) -> torch.Tensor:
    """Return the kept tokens by transformers, in float64 and in the order of its generate."""
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(rules["top_k"])] if "top_k" in rules else []
    warpers += [TopPLogitsWarper(rules["top_p"])] if "top_p" in rules else []
    warpers += [MinPLogitsWarper(rules["min_p"])] if "min_p" in rules else []
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    return LogitsProcessorList(warpers)(ids, logits.double()) > float("-inf")


def mass_of(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    scaled = logits / temperature
    return torch.exp(scaled - scaled.amax(-1, keepdim=True))


def numbers(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("rules", RULES, ids=names)
def test_the_kept_tokens_are_transformers(vocabulary: int, spread: float, rules: dict) -> None:
    """In float64, so that no tokens are equally likely."""
    torch.manual_seed(vocabulary)
    logits = torch.randn(16, vocabulary, dtype=torch.float64) * spread
    for temperature in (0.5, 1.0, 2.0):
        kept = Truncation(**rules).keep(mass_of(logits, temperature))
        assert torch.equal(kept, by_transformers(logits, temperature, rules))
        assert kept.any(-1).all()


def test_flat_rows_do_go_beyond_the_first_thousand() -> None:
    """So that the test above covers the sort of the whole vocabulary."""
    torch.manual_seed(0)
    assert Truncation(top_p=0.95).keep(mass_of(torch.randn(4, 4000) * 0.1)).sum(-1).min() > FIRST


@pytest.mark.parametrize("rules", RULES, ids=names)
def test_kept_mass_and_logprobs_are_the_full_softmax_s(rules: dict) -> None:
    torch.manual_seed(1)
    logits, temperature = torch.randn(64, 1500) * 2, 0.7
    full = torch.softmax(logits.double() / temperature, -1)
    kept = by_transformers(logits, temperature, rules)
    drawn = draw(logits, numbers(64), temperature, Truncation(**rules))
    chosen = drawn.tokens[:, None]
    assert kept.gather(1, chosen).all()
    torch.testing.assert_close(drawn.kept_mass.double(), (full * kept).sum(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(drawn.logprobs.double(), full.gather(1, chosen)[:, 0].log(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rules", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}], ids=names)
@pytest.mark.parametrize("vocabulary", [40, 1500])
def test_frequencies_are_those_of_the_truncated_softmax(rules: dict, vocabulary: int) -> None:
    """Pearson's chi-square; each token is drawn with exp(logprob) / kept_mass, others never."""
    torch.manual_seed(vocabulary)
    logits, temperature, count = torch.randn(vocabulary) * 3, 1.5, 6000
    kept = by_transformers(logits[None], temperature, rules)[0]
    truncated = torch.softmax((logits.double() / temperature).masked_fill(~kept, float("-inf")), -1)
    drawn = draw(logits.expand(count, -1), numbers(count), temperature, Truncation(**rules))
    torch.testing.assert_close(
        drawn.logprobs.double().exp() / drawn.kept_mass.double(), truncated[drawn.tokens], rtol=1e-5, atol=0
    )
    found = torch.bincount(drawn.tokens, minlength=vocabulary)
    assert found[~kept].sum() == 0
    common = truncated * count >= 5
    expected = torch.cat([truncated[common], truncated[~common].sum()[None]]) * count
    observed = torch.cat([found[common], found[~common].sum()[None]]).double()
    degrees = int(common.sum()) - 1 + int(expected[-1] > 0)
    assert degrees >= 3
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum().item()
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("rules", [{}, {"top_p": 1.0}])
def test_no_rule_changes_no_bit(rules: dict) -> None:
    torch.manual_seed(2)
    logits, uniforms = torch.randn(32, 700) * 3, numbers(32)
    plain, ruled = draw(logits, uniforms, 0.7), draw(logits, uniforms, 0.7, Truncation(**rules))
    assert all(torch.equal(a, b) for a, b in zip(plain, ruled, strict=True))
    assert torch.equal(plain.kept_mass, torch.ones(32))
    assert not Truncation(**rules)
    assert all(Truncation(**rule) for rule in RULES)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3000),
    st.floats(0.01, 40),
    st.none() | st.integers(1, 50),
    st.none() | st.floats(1e-6, 1),
    st.none() | st.floats(1e-6, 1),
)
def test_a_row_s_tokens_do_not_depend_on_its_batch_and_are_never_none(
    seed: int, vocabulary: int, spread: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    """Rows of bf16 logits, where many tokens are equally likely, beside a flat row."""
    rule = Truncation(top_k, top_p, min_p)
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, vocabulary, generator=generator) * spread).bfloat16().float()
    logits[0] = 0
    mass = mass_of(logits)
    together = rule.keep(mass)
    assert torch.equal(together, torch.cat([rule.keep(row[None]) for row in mass]))
    assert together.gather(1, mass.argmax(-1, keepdim=True)).all()
    shuffled = torch.randperm(vocabulary, generator=generator)
    assert torch.equal(rule.keep(mass[:, shuffled]), together[:, shuffled])


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    mass = torch.tensor([[1.0, 4.0, 2.0, 1.0, 2.0, 0.5]])  # 10.5 in all
    assert Truncation(top_k=2).keep(mass).tolist() == [[False, True, True, False, True, False]]
    assert Truncation(top_p=0.5).keep(mass).tolist() == [[False, True, True, False, True, False]]
    assert Truncation(min_p=0.25).keep(mass).tolist() == [[True, True, True, True, True, False]]
    # top_p is of what top_k left: 4 of 8 is half, of 10.5 it is not
    assert Truncation(top_k=2, top_p=0.5).keep(mass).tolist() == [[False, True, False, False, False, False]]


def test_the_first_thousand_and_the_whole_vocabulary_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    mass = mass_of((torch.randn(20, 2000) * 2).bfloat16().float())
    expected = Truncation(top_p=0.9).keep(mass)
    monkeypatch.setattr(truncation, "FIRST", 4)
    assert torch.equal(Truncation(top_p=0.9).keep(mass), expected)


def test_a_uniform_number_at_a_block_s_edge_draws_no_token_that_was_cut() -> None:
    """There rounding can put the rest of the search below 0; the block's first token would answer, cut or not."""
    generator = torch.Generator().manual_seed(0)
    rule = Truncation(top_k=40)
    for _ in range(150):
        logits = torch.randn(1, 6 * 256, generator=generator) * 12
        kept = rule.keep(mass_of(logits))
        cumulative = (mass_of(logits) * kept).view(6, 256).sum(-1).double().cumsum(-1)
        edges = [(c / cumulative[-1]).item() for c in cumulative[:-1]]
        near = [u for edge in edges for u in (np.nextafter(edge, 0), edge, np.nextafter(edge, 1)) if 0 <= u < 1]
        drawn = draw(logits.expand(len(near), -1), torch.tensor(near, dtype=torch.float64), 1.0, rule)
        assert kept[0, drawn.tokens].all()
