"""`update.gradient_checkpointing`: the same gradients, blocks computed twice, and dropout of the base still off."""

import warnings

import pytest
import torch
from conftest import lora_policy
from transformers import AutoConfig, AutoModelForCausalLM
from updating import TEMPERATURE, make_data, make_policy, make_targets, update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.policy import Policy, pad
from ppo_pipeline.training.optimizer import make_optimizer, trained_parameters
from ppo_pipeline.training.ppo import PPO

KINDS = [("lora", "shared"), ("lora", "separate"), ("full", "shared"), ("full", "separate"), ("full", "none")]


def one_step(policy: Policy, saving: bool) -> tuple[PPO, dict[str, torch.Tensor], list[int]]:
    """Return the update, its gradients, and how often each MLP of policy and critic was run."""
    settings, data = (
        update_settings(epochs=1, minibatches=1, max_grad_norm=None, microbatch_tokens=100_000),
        make_data(),
    )
    targets = make_targets(policy, data)
    ppo = PPO(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, 0)
    if saving:
        policy.save_memory()
    models = [policy.model, *([policy.separate.model] if policy.separate else ())]
    calls = []
    for model in models:
        for name, module in model.named_modules():
            if name.endswith(".mlp"):
                calls.append(0)

                def count(*_: object, place: int = len(calls) - 1) -> None:
                    calls[place] += 1

                module.register_forward_pre_hook(count)
    ppo.run(data, targets, ("k",))
    grads = {n: p.grad.clone() for n, p in trained_parameters(policy).items() if p.grad is not None}
    return ppo, grads, calls


@pytest.mark.parametrize(("tuning", "critic"), KINDS)
def test_the_same_gradients_with_blocks_computed_twice(architecture: str, tuning: str, critic: str) -> None:
    _, expected, once = one_step(make_policy(architecture, tuning=tuning, critic=critic), saving=False)
    ppo, found, twice = one_step(make_policy(architecture, tuning=tuning, critic=critic), saving=True)
    assert once == [1] * len(once) and twice == [2] * len(once) and len(once) == (4 if critic == "separate" else 2)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)
    assert ppo.metrics()["val/ratio_first_max_deviation"] < 1e-5, "the base's dropout (GPT-2 has some) is on"


def test_lora_s_dropout_is_drawn_again_as_it_was() -> None:
    """With dropout the blocks computed again have to draw the very same zeros."""
    found = []
    for saving in (False, True):
        policy = make_policy()
        for layer in policy.all_layers():
            layer.dropout.p = 0.3
        found.append(one_step(policy, saving)[1])
    without = one_step(make_policy(), False)[1]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
    assert any((found[0][n] - without[n]).abs().max() > 1e-3 for n in without), "dropout did nothing"


@pytest.mark.parametrize("kind", ["opt", "biogpt", "xglm"])
def test_dropout_that_a_block_itself_asks_for_stays_off(kind: str) -> None:
    """These blocks call dropout as a function, by their own flag; each is half zeros here."""
    found = [scores_and_gradients(kind, saving) for saving in (False, True)]
    assert torch.equal(found[1][0], found[0][0])
    for name, gradient in found[0][1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-6, rtol=1e-5)


def scores_and_gradients(kind: str, saving: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logprobs of a few tokens, and the gradient of their sum by LoRA on all linear layers."""
    sizes = {
        "hidden_size": 32, "d_model": 32, "num_hidden_layers": 2, "num_layers": 2, "num_attention_heads": 4,
        "attention_heads": 4, "word_embed_proj_dim": 32, "ffn_dim": 48, "intermediate_size": 48,
    }  # fmt: skip
    config = AutoConfig.for_model(
        kind, vocab_size=64, max_position_embeddings=64, dropout=0.5, attention_dropout=0.5, activation_dropout=0.5,
        hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = lora_policy(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), "all-linear")
    if saving:
        policy.save_memory()
    batch = pad([torch.arange(5)], [torch.arange(7, 20)], 0, torch.device("cpu"))
    logprobs = policy.score(batch, 1.0).logprobs
    logprobs.sum().backward()
    return logprobs.detach(), {name: p.grad for name, p in policy.policy_parameters().items() if p.grad is not None}


def test_nothing_is_in_training_mode() -> None:
    """Dropout asks the module that it is in, or the one that calls it."""
    policy = make_policy("gpt2")
    policy.save_memory()
    assert not [m for m in policy.model.modules() if m.training]


def test_no_warning_of_a_call_that_will_go_away() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        make_policy().save_memory()


def test_a_model_that_cannot_is_refused_by_name() -> None:
    policy = make_policy()
    policy.model.supports_gradient_checkpointing = False
    with pytest.raises(PipelineError, match="LlamaForCausalLM does not support it; set it to false"):
        policy.save_memory()
