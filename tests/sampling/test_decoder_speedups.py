"""What makes the decoder fast changes nothing: the common prefix is run once, weights are packed."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from models.test_native_layers import KINDS, model_of

from ppo_pipeline.compute.native.operations import serves
from ppo_pipeline.models.policy import PAD_MULTIPLE
from ppo_pipeline.models.prepacked import PrepackedLinear, can_prepack, prepack_linears
from ppo_pipeline.sampling import decoder as decoder_module
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.streams import uniforms

STOP = 257
needs_kernels = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")


def with_prefix(length: int, count: int = 7, shortest: int = 1) -> list[list[int]]:
    """Return prompts that begin with the same tokens, and differ right behind them."""
    rng = np.random.default_rng(length)
    start = rng.integers(0, 256, size=length).tolist()
    rest = [[i, *rng.integers(0, 256, size=rng.integers(shortest, 9)).tolist()] for i in range(count)]
    return [start + tokens for tokens in rest]


def count_tokens(model: torch.nn.Module) -> list[int]:
    """Return a list to which each forward of the backbone adds the number of tokens that it ran."""
    seen: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


def check(model: torch.nn.Module, prompts: list[list[int]], batch_size: int) -> None:
    """Greedy responses are those of transformers' generate, their logprobs those of a plain forward."""
    found = Decoder(model, [STOP], 15, 1.0, batch_size).decode([Request(p, None) for p in prompts])
    for prompt, response in zip(prompts, found, strict=True):
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=15,
            eos_token_id=STOP, pad_token_id=STOP,
        )  # fmt: skip
        assert response.ids == out[0, len(prompt) :].tolist()
        with torch.no_grad():
            every = torch.log_softmax(model(torch.tensor([prompt + response.ids])).logits[0], -1)[len(prompt) - 1 : -1]
        plain = every.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(response.logprobs), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [0, 7, 8, 20])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_a_common_prefix_changes_no_token(architecture: str, length: int, batch_size: int) -> None:
    check(tiny_model(architecture), with_prefix(length), batch_size)


def as_a_tree() -> list[list[int]]:
    """Return prompts of 26 tokens and more: 12 common to all, 10 to each kind, and one that another goes on from."""
    rng = np.random.default_rng(0)
    start, *kinds = (rng.integers(0, 256, size=n).tolist() for n in (12, 10, 10, 10))
    prompts = [[*start, *kind, i, *rng.integers(0, 256, size=3 + i).tolist()] for kind in kinds for i in range(3)]
    return [*prompts, [*prompts[-1], 7, 8], prompts[2]]


@needs_kernels
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_of_prompts_changes_no_token(kind: str, batch_size: int) -> None:
    check(model_of(kind), as_a_tree(), batch_size)


def tokens_run(prompts: list[list[int]], slots: int) -> list[int]:
    """Return the tokens of each prefill, padding included, of a model that runs prompts as a tree."""
    decoder = Decoder(model_of("llama"), [STOP], 1, 1.0, slots)
    seen = count_tokens(decoder.model)
    decoder.decode([Request(p, None) for p in prompts])
    return seen


def padded(tokens: int) -> int:
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


@needs_kernels
def test_what_prompts_share_runs_once_where_they_are_run_as_a_tree() -> None:
    """12 tokens of all, 10 of each of three kinds, and what is left of them; a prompt that is there twice runs once."""
    prompts = as_a_tree()
    own = sum(len(p) - 22 for p in prompts[:9]) + 2
    last_of_the_shorter = 1  # that prompt's last token gives its response's first logits, and is not shared
    assert tokens_run(prompts, 16) == [12, padded(3 * 10 + own + last_of_the_shorter)]


@needs_kernels
def test_prompts_that_come_later_do_not_run_the_common_prefix_again() -> None:
    start, prompts = list(range(100, 140)), [[i, 5, 6] for i in range(9)]
    assert tokens_run([start + p for p in prompts], 3) == [40, *[padded(9)] * 3]


@needs_kernels
@pytest.mark.parametrize("start", [0, 40])
def test_a_tree_in_several_parts(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefill has so many tokens at most, those of the common prefix not among them."""
    monkeypatch.setattr(decoder_module, "PREFILL_TOKENS", 30)
    prompts = [[*range(100, 100 + start), *p] for p in as_a_tree()]
    check(model_of("llama"), prompts, 16)
    first, *rest = tokens_run(prompts, 16)
    assert first == start + 12 and max(rest) <= padded(30) and len(rest) > 2


def test_the_common_prefix_runs_once() -> None:
    model, prompts = tiny_model("llama"), with_prefix(20, count=7)
    seen = count_tokens(model)
    Decoder(model, [STOP], 1, 1.0, 16).decode([Request(p, None) for p in prompts])
    longest = max(len(p) for p in prompts)
    assert seen == [20, 7 * (longest - 20)]


@pytest.mark.parametrize(
    ("prompts", "prefix"),
    [
        ([[5] * 20], 0),  # one prompt alone
        ([[5] * 20, [5] * 20], 19),  # a token is left to give the first logits
        ([[5] * 20, [5] * 10], 9),
        ([[5] * 20, [5] * 8], 0),  # 7 tokens are not worth it
        ([[5] * 12 + [1], [5] * 12 + [2], [5] * 9 + [3] * 9], 9),
    ],
)
def test_how_long_the_prefix_is(prompts: list[list[int]], prefix: int) -> None:
    model = tiny_model("llama")
    seen = count_tokens(model)
    found = Decoder(model, [STOP], 4, 1.0, 16).decode([Request(p, None) for p in prompts])
    assert (seen[0] == prefix) is bool(prefix)
    alone = [Decoder(model, [STOP], 4, 1.0, 1).decode([Request(p, None)])[0].ids for p in prompts]
    assert [c.ids for c in found] == alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_weights_give_the_plain_layers_numbers(architecture: str, dtype: torch.dtype) -> None:
    """Products may round differently in the last bit."""
    plain, packed = (tiny_model(architecture).to(dtype).requires_grad_(False) for _ in range(2))
    if not can_prepack(packed):
        pytest.skip("no kernels with packed weights on this machine")
    prepack_linears(packed)
    assert any(isinstance(m, PrepackedLinear) for m in packed.modules())
    assert not any(type(m) is torch.nn.Linear for m in packed.modules())
    ids = torch.arange(40).view(2, 20) * 5 % 256
    with torch.no_grad():
        expected, found = plain(ids).logits.double(), packed(ids).logits.double()
        exact = tiny_model(architecture).double()(ids).logits
    if dtype == torch.float32:
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    else:
        error = (expected - exact).abs().mean()
        assert (found - exact).abs().mean() < 1.2 * error  # as near as the plain bf16 layers are


def test_the_training_forward_in_fp32_stays_as_it_is() -> None:
    model = tiny_model("llama").requires_grad_(False)
    prepack_linears(model, training=True)
    assert not any(isinstance(m, PrepackedLinear) for m in model.modules())


def test_packed_models_decode_what_plain_ones_do() -> None:
    """Sampled text of a bf16 model, packed and not: the same but where rounding flips a token."""
    prompts = with_prefix(12, count=24)
    texts = []
    for pack in (False, True):
        model = tiny_model("llama", scale=0.5).to(torch.bfloat16).requires_grad_(False)
        if pack:
            prepack_linears(model)
        requests = [Request(p, uniforms(0, str(i), 12)) for i, p in enumerate(prompts)]
        texts.append([c.ids for c in Decoder(model, [STOP], 12, 1.0, 8).decode(requests)])
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same >= 20
