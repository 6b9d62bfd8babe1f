"""Sequences packed give the padded forward and gradient; packed weights do too, up to rounding."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from tiny_architectures import tiny_architecture
from transformers import AutoConfig, AutoModelForCausalLM
from updating import make_policy

from ppo_pipeline.models.loading import hidden_width
from ppo_pipeline.models.packed import FEW_KEYS, _FewKeys, can_pack
from ppo_pipeline.models.policy import PAD_MULTIPLE, Policy, pack
from ppo_pipeline.models.prefix import common_prefix
from ppo_pipeline.models.prepacked import PrepackedLinear, can_prepack, prepack_policy
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.optimizer import trained_parameters

pytestmark = pytest.mark.usefixtures("either_kernels")

CPU = torch.device("cpu")


def data(length: int, prefix: int | None, count: int = 6, longest: int = 12) -> Sampled:
    """Return samples whose prompts share `length` tokens; the first `prefix` of them are to run once.

    prefix None: the samples are not packed but padded.
    """
    rng = np.random.default_rng(1)
    start = rng.integers(0, 256, length)
    prompts = [
        torch.tensor([*start, i, *rng.integers(0, 256, rng.integers(0, 6))], dtype=torch.int32) for i in range(count)
    ]
    responses = [torch.tensor(rng.integers(0, 256, rng.integers(1, longest)), dtype=torch.int32) for _ in range(count)]
    return Sampled([f"s{i}" for i in range(count)], prompts, responses, prefix is not None, prefix or 0)


def scores_and_gradients(policy: Policy, samples: Sampled) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    scores = policy.score(samples.sequences(np.arange(len(samples.sample_ids)), 0, CPU), 0.8)
    weights = torch.sin(torch.arange(len(scores.logprobs)))
    ((scores.logprobs + scores.values + 0.1 * scores.entropy) * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in trained_parameters(policy).items()}
    return [scores.logprobs, scores.entropy, scores.values, scores.bootstrap], gradients


CASES = [(0, 0, 12), (8, 8, 12), (21, 21, 12), (21, 8, 12), (9, 9, FEW_KEYS + 40)]


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize(("length", "prefix", "longest"), CASES)
def test_scores_and_gradients_are_those_of_padded_batches(
    architecture: str, length: int, prefix: int, longest: int, tuning: str, critic: str
) -> None:
    policies = [make_policy(architecture, tuning=tuning, critic=critic) for _ in range(2)]
    assert can_pack(policies[1].model)
    plain = scores_and_gradients(policies[0], data(length, None, longest=longest))
    laid = scores_and_gradients(policies[1], data(length, prefix, longest=longest))
    for expected, found in zip(plain[0], laid[0], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain[1].values())
    for name, expected in plain[1].items():
        torch.testing.assert_close(laid[1][name], expected, atol=5e-4, rtol=5e-3, msg=name)


def test_the_backward_pass_for_few_keys_is_that_of_torch_s_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 9, 9))
    seen = torch.ones(5, 9, dtype=torch.bool).tril(4)
    weights = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    gradients = []
    for attend in (
        lambda: _FewKeys.apply(q, k, v, seen, 0.3),
        lambda: torch.softmax((q @ k.mT * 0.3).masked_fill(~seen, -torch.inf), -1) @ v,
    ):
        gradients.append(torch.autograd.grad((attend() * weights).sum(), (q, k, v)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_reference_logprobs_are_the_base_s(architecture: str) -> None:
    policy = make_policy(architecture)
    found, expected = (policy.reference_logprobs(data(12, p).sequences(np.arange(6), 0, CPU), 0.8) for p in (12, None))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", [0, 13])
def test_a_sequence_scores_the_same_bits_in_bf16_in_every_batch(prefix: int) -> None:
    """The first ratio of an update is 1 because of it, however its minibatches are cut."""
    policy, samples = in_bf16("llama"), data(13, prefix, count=20, longest=60)
    prepack_policy(policy)
    with torch.no_grad():
        alone = [policy.score(samples.sequences(np.array([i]), 0, CPU), 1.0).logprobs for i in range(20)]
        together = policy.score(samples.sequences(np.arange(20), 0, CPU), 1.0).logprobs
    assert torch.equal(torch.cat(alone), together)


def test_a_batch_is_one_row_without_padding_but_up_to_a_multiple() -> None:
    prompts = [torch.tensor([7, 8, 1]), torch.tensor([7, 8, 2, 3])]
    responses = [torch.tensor([4]), torch.tensor([5, 6])]
    batch = pack(prompts, responses, 0, CPU, prefix=2)
    assert batch.ids.tolist() == [[7, 8, 1, 4, 2, 3, 5, 6, *[0] * (PAD_MULTIPLE - 8)]]
    assert (batch.starts.tolist(), batch.prompt_lengths.tolist()) == ([2, 4], [1, 2])
    assert batch.response_lengths.tolist() == [1, 2]
    assert batch.layout is not None
    assert batch.layout.positions[0, :8].tolist() == [0, 1, 2, 3, 2, 3, 4, 5]
    assert batch.layout.padded[:, :4].tolist() == [[0, 1, 0, 0], [2, 3, 4, 5]]
    assert batch.layout.padded.shape[1] + 2 == PAD_MULTIPLE


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # each keeps a token of its own: the state before the response is in its row
        ([[1, 2, 3], [1, 2]], 1),
        ([[5], [5]], 0),
        ([[1, 2], [2, 2]], 0),
        ([[1, 2, 3, 4]], 3),
    ],
)
def test_the_common_prefix_by_hand(prompts: list[list[int]], length: int) -> None:
    assert common_prefix(prompts) == length


SMALL = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("qwen3", {"head_dim": 8}, True),
        ("gemma", {"head_dim": 8}, True),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 16}, False),
        ("gemma2", {"head_dim": 8}, False),  # caps attention scores
        ("bloom", {"n_layer": 2, "n_head": 4}, False),  # ALiBi, and attention of its own
        ("qwen3_next", {"head_dim": 8}, False),  # some layers are no attention
    ],
)
def test_what_cannot_be_laid_end_to_end_is_found_out(kind: str, more: dict[str, object], expected: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **more})).eval()
    before, ids = model.config._attn_implementation, torch.arange(20)[None]
    logits = model(ids, use_cache=False).logits
    for dtype in (torch.float32, torch.bfloat16):
        assert can_pack(model.to(dtype)) == expected
    assert (model.config._attn_implementation == before) != expected
    after = model.float()(ids, use_cache=False).logits  # bf16 rounded the weights
    torch.testing.assert_close(after, logits, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("std", [0.0, 0.3, 1.5])
def test_training_does_not_change_whether_a_model_can(architecture: str, std: float) -> None:
    assert can_pack(in_bf16(architecture, std).model)


def in_bf16(architecture: str, std: float = 0.05) -> Policy:
    policy = make_policy(architecture, std)
    policy.model.to(torch.bfloat16)
    for parameter in policy.policy_parameters().values():
        parameter.data = parameter.data.float()
    return policy


@pytest.mark.parametrize("prefix", [None, 0, 12])
def test_packed_weights_give_the_gradients_of_plain_ones(architecture: str, prefix: int | None) -> None:
    """bf16 against fp32: with packed weights no further from it than with plain ones."""
    plain, packed = in_bf16(architecture), in_bf16(architecture)
    if not can_prepack(packed.model):
        pytest.skip("no bf16 kernels with packed weights on this machine")
    prepack_policy(packed)
    count = sum(isinstance(m, PrepackedLinear) for m in packed.model.modules())
    assert count == (0 if architecture == "gpt2" else 14)  # GPT-2 has Conv1D layers, which stay
    exact = scores_and_gradients(make_policy(architecture), data(12, prefix))[1]
    errors = []
    for policy in (plain, packed):
        found = scores_and_gradients(policy, data(12, prefix))[1]
        errors.append(sum((found[n].float() - exact[n]).square().sum() for n in exact).sqrt())
    norm = sum(g.square().sum() for g in exact.values()).sqrt()
    assert errors[0] < 0.5 * norm
    assert errors[1] < 1.3 * errors[0]


def test_the_state_of_training_is_untouched_by_packing() -> None:
    policy = in_bf16("llama")
    names = list(trained_parameters(policy))
    prepack_policy(policy)
    assert list(trained_parameters(policy)) == names


def test_what_looks_back_beside_attention_is_not_laid_end_to_end() -> None:
    """A short convolution is wrong for the first token of a sequence alone, which a median over tokens would hide."""
    model = tiny_model("llama")
    assert can_pack(model)
    mlp = model.model.layers[-1].mlp
    old = mlp.forward
    mlp.forward = lambda x: old(x) + 0.5 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    assert not can_pack(model)


def test_positions_that_a_model_does_not_take_are_not_laid_end_to_end() -> None:
    """BART's decoder counts positions through the whole row: only the first sequence is right."""
    assert not can_pack(tiny_architecture("bart"))


@pytest.mark.parametrize("fault", [KeyError("x"), RuntimeError("shape"), AttributeError("y"), IndexError("z")])
def test_whatever_a_model_raises_it_is_padded_then(fault: Exception) -> None:
    model = tiny_model("llama")
    old = model.model.forward

    def forward(*args: object, **kwargs: object) -> object:
        if "sequence_layout" in kwargs:
            raise fault
        return old(*args, **kwargs)

    model.model.forward = forward
    assert not can_pack(model)
    assert model.config._attn_implementation == "sdpa"


def test_layers_that_ask_for_a_window_are_not_laid_end_to_end() -> None:
    model = tiny_model("llama")
    attend = model.model.layers[1].self_attn
    old = attend.forward
    attend.forward = lambda *args, **kwargs: old(*args, **kwargs, sliding_window=64)
    assert not can_pack(model)


def test_windows_of_a_model_that_sees_images_too_are_those_of_its_text_part() -> None:
    """Gemma 3 holds them in the config of one of its parts; a few tokens alone would fit into them."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "sliding_window": 32}
    vision = {**sizes, "image_size": 16, "patch_size": 8, "vision_use_head": False}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", text_config=text, vision_config=vision))
    assert not can_pack(model.eval())
    assert hidden_width(model) == 32
