"""compute.head: fp32 against a head made by hand: fp32 copies of the bf16 hidden states and weight."""

from collections.abc import Iterator

import pytest
import torch
from conftest import lora_policy, targets_of, tiny_model
from models.test_native_layers import model_of

from ppo_pipeline.compute import head
from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.compute.native.operations import serves
from ppo_pipeline.models.acceleration import accelerate_forward, accelerate_model
from ppo_pipeline.models.logprobs import token_logprobs
from ppo_pipeline.models.lora import lora_off
from ppo_pipeline.models.policy import Policy, hidden_states, pad, positions
from ppo_pipeline.sampling.batch_invariant import check_batch_invariant
from ppo_pipeline.sampling.decoder import Decoder
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.settings.sections import Compute

PROMPTS = [torch.arange(5, 5 + n) for n in (3, 7, 4)]
ANSWERS = [torch.arange(100, 100 + n) for n in (6, 2, 5)]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    head.choose(False)


def by_hand(policy: Policy, temperature: float) -> torch.Tensor:
    """Return logprobs with a head in float64 over the model's own bf16 hidden states."""
    batch = pad(PROMPTS, ANSWERS, 0, policy.model.device)
    before, _, targets = positions(batch)
    hidden, weight = hidden_states(policy.model, batch)[before], policy.model.get_output_embeddings().weight
    logits = hidden.double() @ weight.double().T / temperature
    return torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_training_forward_and_gradient_are_those_of_a_head_in_fp32(architecture: str) -> None:
    policy = lora_policy(tiny_model(architecture).to(torch.bfloat16), targets_of(architecture))
    parameters = [layer.lora_B for layer in policy.layers.values()]
    batch = pad(PROMPTS, ANSWERS, 0, policy.model.device)
    rough = policy.score(batch, 0.7).logprobs
    head.choose(True)
    found, expected = policy.score(batch, 0.7), by_hand(policy, 0.7)
    assert found.logprobs.dtype == torch.float32
    torch.testing.assert_close(found.logprobs.double(), expected, atol=2e-5, rtol=1e-5)
    assert (rough.double() - expected).abs().max() > 1e-3  # the model's own dtype is further away
    with lora_off(policy.layers):
        base = by_hand(policy, 0.7)
    torch.testing.assert_close(policy.reference_logprobs(batch, 0.7).double(), base, atol=2e-5, rtol=1e-5)
    ours = torch.autograd.grad(found.logprobs.sum(), parameters)
    theirs = torch.autograd.grad(expected.sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()  # below the head the gradient is rounded to bf16


def test_the_weight_of_a_whole_model_gets_its_gradient() -> None:
    """In the weight's own dtype, as one product in fp32 that is rounded once."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16, dtype=torch.bfloat16), torch.randn(9, 16, dtype=torch.bfloat16)
    weight.requires_grad_(True)
    targets = torch.tensor([1, 2, 3, 4, 8])
    head.choose(True)
    [found] = torch.autograd.grad(token_logprobs(hidden, weight, None, targets)[0].sum(), [weight])
    wide = weight.detach().double().requires_grad_(True)
    logprobs = torch.log_softmax(hidden.double() @ wide.T, -1).gather(1, targets[:, None])
    [expected] = torch.autograd.grad(logprobs.sum(), [wide])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=2**-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_sampler_has_the_same_head(dtype: torch.dtype) -> None:
    head.choose(True)
    model = tiny_model("llama").to(dtype).requires_grad_(False)
    weight = model.get_output_embeddings().weight.detach().clone()
    accelerate_model(model)  # packs weights where it can, of the head those that are in fp32 already
    decoder = Decoder(model, [], 4, 1.0, 2)
    hidden = torch.randn(3, 32).to(dtype)
    found = decoder._logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), hidden.double() @ weight.double().T, atol=1e-4, rtol=1e-5)
    assert model.get_input_embeddings().weight.dtype == dtype  # tied to the head, and left as it is
    [response] = decoder.decode([Request((1, 2, 3), None)])
    assert len(response.ids) == 4


@pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")
def test_batch_invariant_sampling_has_the_training_forward_s_own_bits() -> None:
    head.choose(True)
    model = model_of("llama").to(torch.bfloat16)
    accelerate_forward(model)
    check_batch_invariant(model.requires_grad_(False))


def test_the_setting_chooses_it_for_the_process() -> None:
    for name, wanted in (("fp32", True), ("auto", False)):
        set_up(Compute(device="cpu", dtype="fp32", head=name, threads=1, kernels="auto", batch_invariant=False))
        assert head.in_fp32() is wanted
