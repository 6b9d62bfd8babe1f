"""A common prefix that runs once gives the plain forward and gradient; packed weights do too, up to rounding."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from updating import make_policy

from ppo_pipeline.models.packing import PackedLinear, can_pack, pack_policy
from ppo_pipeline.models.policy import PAD_MULTIPLE, Policy, pad
from ppo_pipeline.models.prefix import can_share, common_prefix
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.optimizer import trained_parameters

CPU = torch.device("cpu")


def data(length: int, prefix: int, count: int = 6) -> Sampled:
    """Return samples whose prompts share `length` tokens; the first `prefix` of them are to run once."""
    rng = np.random.default_rng(1)
    start = rng.integers(0, 256, length)
    prompts = [
        torch.tensor([*start, i, *rng.integers(0, 256, rng.integers(0, 6))], dtype=torch.int32) for i in range(count)
    ]
    responses = [torch.tensor(rng.integers(0, 256, rng.integers(1, 12)), dtype=torch.int32) for _ in range(count)]
    return Sampled([f"s{i}" for i in range(count)], prompts, responses, prefix)


def scores_and_gradients(policy: Policy, samples: Sampled) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    scores = policy.score(samples.sequences(np.arange(6), 0, CPU), 0.8)
    weights = torch.sin(torch.arange(len(scores.logprobs)))
    ((scores.logprobs + scores.values + 0.1 * scores.entropy) * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in trained_parameters(policy).items()}
    return [scores.logprobs, scores.entropy, scores.values, scores.bootstrap], gradients


@pytest.mark.parametrize("length", [8, 21])
def test_scores_and_gradients_are_those_of_the_plain_forward(architecture: str, length: int) -> None:
    plain = scores_and_gradients(make_policy(architecture), data(length, 0))
    shared = scores_and_gradients(make_policy(architecture), data(length, length))
    for expected, found in zip(plain[0], shared[0], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain[1].values())
    for name, expected in plain[1].items():
        torch.testing.assert_close(shared[1][name], expected, atol=2e-4, rtol=2e-3, msg=name)


def test_reference_logprobs_are_the_base_s_with_a_prefix_too(architecture: str) -> None:
    policy = make_policy(architecture)
    found, expected = (policy.reference_logprobs(data(12, p).sequences(np.arange(6), 0, CPU), 0.8) for p in (12, 0))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_prefix_runs_as_one_row_and_the_width_with_it_is_a_multiple() -> None:
    policy, seen = make_policy(), []
    policy.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with torch.no_grad():
        policy.score(data(21, 21).sequences(np.arange(6), 0, CPU), 1.0)
    assert seen[0] == (1, 21)
    assert seen[1][0] == 6
    assert (seen[1][1] + 21) % PAD_MULTIPLE == 0


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


def test_pad_takes_the_prefix_out() -> None:
    prompts, responses = (
        [torch.tensor([7, 8, 1]), torch.tensor([7, 8, 2, 3])],
        [torch.tensor([4]), torch.tensor([5, 6])],
    )
    batch = pad(prompts, responses, 0, CPU, prefix=2)
    assert batch.ids[:, :4].tolist() == [[1, 4, 0, 0], [2, 3, 5, 6]]
    assert batch.ids.shape[1] + 2 == PAD_MULTIPLE
    assert (batch.prompt_lengths.tolist(), batch.response_lengths.tolist()) == ([1, 2], [1, 2])
    assert batch.prefix is not None
    assert batch.prefix.tolist() == [7, 8]


def test_models_with_attention_windows_run_whole_prompts() -> None:
    model = tiny_model("qwen2")
    assert can_share(model)
    model.config.sliding_window, model.config.use_sliding_window = 16, True
    assert not can_share(model)
    model.config.use_sliding_window = False
    assert can_share(model)


def in_bf16(architecture: str) -> Policy:
    policy = make_policy(architecture)
    policy.model.to(torch.bfloat16)
    for parameter in policy.policy_parameters().values():
        parameter.data = parameter.data.float()
    return policy


@pytest.mark.parametrize("prefix", [0, 12])
def test_packed_weights_give_the_gradients_of_plain_ones(architecture: str, prefix: int) -> None:
    """bf16 against fp32: with packed weights no further from it than with plain ones."""
    plain, packed = in_bf16(architecture), in_bf16(architecture)
    if not can_pack(packed.model):
        pytest.skip("no bf16 kernels with packed weights on this machine")
    pack_policy(packed)
    count = sum(isinstance(m, PackedLinear) for m in packed.model.modules())
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
    pack_policy(policy)
    assert list(trained_parameters(policy)) == names
