"""The three critics: shared, separate and none, for LoRA and for a model that is trained as a whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import policy_settings, save_tiny, targets_of, tiny_model
from safetensors.torch import load_file
from updating import TEMPERATURE, make_data, make_policy, make_targets, parameters_of, run, update_settings

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.checkpoint import (
    TrainerState,
    copy_model_files,
    load_checkpoint,
    read_trainer,
    save_checkpoint,
    save_trainer,
)
from ppo_pipeline.models.lora import add_lora, copy_with_same_weights, merge_lora
from ppo_pipeline.models.policy import Policy, Scores
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.optimizer import make_optimizer, moments_of
from ppo_pipeline.training.ppo import PPO

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-4, "rtol": 2e-4}
TUNINGS, CRITICS = ("lora", "full"), ("shared", "separate", "none")


def storages(*models: torch.nn.Module) -> dict[int, int]:
    """Return the bytes of each different block of memory behind parameters and buffers."""
    tensors = [t for m in models for t in (*m.parameters(), *m.buffers())]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def gradients(policy: Policy, **changes: object) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the gradients of one step for policy and critic."""
    data = make_data()
    targets = make_targets(policy, data)
    if changes.pop("no_advantage", False):
        targets = replace(targets, advantages=[torch.zeros_like(a) for a in targets.advantages])
    settings = update_settings(epochs=1, minibatches=1, entropy_coef=0.0, max_grad_norm=None, **changes)
    run(policy, settings, data, targets)
    parts = policy.policy_parameters(), policy.value_parameters()
    return tuple({n: p.grad for n, p in part.items() if p.grad is not None} for part in parts)  # type: ignore[return-value]


def score(policy: Policy, data: Sampled) -> Scores:
    with torch.no_grad():
        return policy.score(data.sequences(np.arange(len(data.sample_ids)), 0, CPU), TEMPERATURE)


def test_a_second_lora_takes_no_second_base(architecture: str) -> None:
    model = tiny_model(architecture).requires_grad_(False)
    alone = storages(model)
    twin = copy_with_same_weights(model)
    assert storages(model, twin) == alone
    assert all(a is not b for a, b in zip(model.modules(), twin.modules(), strict=True))
    own = add_lora(twin, targets_of(architecture), 4, 8, 0.0)
    assert not any("lora" in name for name, _ in model.named_parameters()), "LoRA is on the twin alone"
    of_lora = sum(p.nbytes for layer in own.values() for p in (layer.lora_A, layer.lora_B))
    assert sum(storages(model, twin).values()) == sum(alone.values()) + of_lora
    assert not any(p.requires_grad for name, p in twin.named_parameters() if "lora" not in name)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_separate_critic_s_values_are_of_its_own_trunk(architecture: str, tuning: str) -> None:
    """Values by the plain model that the critic is, logprobs by the one that the policy is."""
    policy, data = make_policy(architecture, tuning=tuning, critic="separate"), make_data()
    found = score(policy, data)
    for part in (policy, policy.separate):
        if tuning == "lora":  # the shared weights must not be merged into twice
            part.model = merged(architecture, part.layers)
    start = 0
    for i, (prompt, response) in enumerate(zip(data.prompts, data.responses, strict=True)):
        ids, rows = torch.cat([prompt, response])[None].long(), slice(start, start + len(response))
        start += len(response)
        with torch.no_grad():
            hidden = policy.separate.model(ids, output_hidden_states=True).hidden_states[-1][0]
            values = policy.value_head(hidden)[len(prompt) - 1 :]
            every = torch.log_softmax(policy.model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE, -1)
        torch.testing.assert_close(torch.cat([found.values[rows], found.bootstrap[i, None]]), values, **CLOSE)
        torch.testing.assert_close(found.logprobs[rows], every.gather(1, response.long()[:, None])[:, 0], **CLOSE)


def merged(architecture: str, layers: dict) -> torch.nn.Module:
    """Return a plain model with the update of these layers added to its weights."""
    model = tiny_model(architecture)
    own = add_lora(model, targets_of(architecture), 4, 8, 0.0)
    with torch.no_grad():
        for name, layer in own.items():
            layer.lora_A.copy_(layers[name].lora_A)
            layer.lora_B.copy_(layers[name].lora_B)
    merge_lora(model, own)
    return model


@pytest.mark.parametrize("tuning", TUNINGS)
def test_policy_and_separate_critic_do_not_pull_at_each_other(architecture: str, tuning: str) -> None:
    of_policy, of_critic = gradients(make_policy(architecture, tuning=tuning, critic="separate"), value_coef=0.0)
    assert all(g.abs().max() > 0 for n, g in of_policy.items() if "bias" not in n)
    assert all(not g.any() for g in of_critic.values())
    of_policy, of_critic = gradients(make_policy(architecture, tuning=tuning, critic="separate"), no_advantage=True)
    assert all(not g.any() for g in of_policy.values())
    assert all(g.abs().max() > 0 for n, g in of_critic.items() if "bias" not in n)
    shared, _ = gradients(make_policy(architecture, tuning=tuning), no_advantage=True)
    assert any(g.any() for g in shared.values()), "a shared backbone learns values too"


@pytest.mark.parametrize("tuning", TUNINGS)
def test_training_the_critic_leaves_the_policy_s_logprobs(tuning: str) -> None:
    policy, data = make_policy(tuning=tuning, critic="separate"), make_data()
    before = score(policy, data)
    settings = update_settings(entropy_coef=0.0)
    targets = make_targets(policy, data)
    run(policy, settings, data, replace(targets, advantages=[torch.zeros_like(a) for a in targets.advantages]))
    after = score(policy, data)
    assert torch.equal(after.logprobs, before.logprobs)
    assert (after.values - before.values).abs().max() > 0.01


def written(policy: Policy, tuning: str, folder: Path, state: TrainerState) -> None:
    """Write base, an untrained round and `policy` as the round after it."""
    base, parent = save_tiny(folder / "base"), folder / "r000"
    if tuning == "lora":
        config = adapter_config(policy_settings(), "base", policy.layers, policy.model)
        save_policy(make_policy(std=0.0), config, parent)
    else:
        parent.mkdir()
        copy_model_files(base, parent, weights=True)
    save_checkpoint(policy, state, parent, folder / "policy", folder / "trainer")


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_saving_and_loading_is_exact(tuning: str, critic: str, tmp_path: Path) -> None:
    policy, data = make_policy(tuning=tuning, critic=critic), make_data()
    _, optimizer = run(policy, update_settings(), data, make_targets(policy, data))
    state = TrainerState(optimizer_step=4, value_step=3, moments=moments_of(policy, optimizer))
    written(policy, tuning, tmp_path, state)
    names = {path.name for path in (tmp_path / "trainer").iterdir()}
    files = {"shared": {"value_head.safetensors"}, "none": set()}
    files["separate"] = {"value_head.safetensors", "critic.safetensors"}
    assert names == {"state.json", "optimizer.safetensors"} | files[critic]
    loaded, back = load_checkpoint(tmp_path / "base", tmp_path / "policy", tmp_path / "trainer", CPU, torch.float32)
    assert loaded.critic == critic and bool(loaded.layers) == (tuning == "lora")
    assert parameters_of(loaded).keys() == parameters_of(policy).keys()
    for name, parameter in parameters_of(policy).items():
        assert torch.equal(parameters_of(loaded)[name], parameter), name
    for found, expected in zip(score(loaded, data), score(policy, data), strict=True):
        assert (found is None and expected is None) or torch.equal(found, expected)
    assert (back.optimizer_step, back.value_step) == (4, 3)
    assert back.moments.keys() == state.moments.keys()
    again = make_optimizer(loaded, update_settings(), back)
    steps = {n: int(again.state[p]["step"]) for n, p in loaded.policy_parameters().items()}
    assert set(steps.values()) == {4}
    assert all(int(again.state[p]["step"]) == 3 for p in loaded.value_parameters().values())


def test_without_a_critic_there_is_no_value_and_no_value_loss() -> None:
    policy, data = make_policy(critic="none"), make_data()
    assert score(policy, data).values is None and score(policy, data).bootstrap is None
    ppo, optimizer = run(policy, update_settings(), data, make_targets(policy, data))
    assert "loss/value" not in ppo.metrics() and ppo.steps == 4
    assert len(optimizer.param_groups) == 1
    with_critic = make_policy()
    run(with_critic, update_settings(value_coef=0.0), data, make_targets(with_critic, data))
    for name, parameter in policy.policy_parameters().items():
        torch.testing.assert_close(parameter, with_critic.policy_parameters()[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_round_without_values_leaves_the_critic_as_if_it_had_not_been(tuning: str, tmp_path: Path) -> None:
    """Two rounds with values, and between them one without or none: the same critic and the same moments."""
    data, settings, found = make_data(), update_settings(max_grad_norm=None), []
    targets = make_targets(make_policy(tuning=tuning, critic="separate"), data)
    for rounds in ("v-v", "vv"):
        policy, state = make_policy(tuning=tuning, critic="separate"), TrainerState()
        for i, kind in enumerate(rounds):
            optimizer = make_optimizer(policy, settings, state)
            ppo = PPO(policy, optimizer, settings, TEMPERATURE, 0)
            ppo.run(data, targets if kind == "v" else replace(targets, returns=None, old_values=None), (kind,))
            values = state.value_step + (ppo.steps if kind == "v" else 0)
            save_trainer(
                policy,
                TrainerState(state.optimizer_step + ppo.steps, values, moments=moments_of(policy, optimizer)),
                tmp_path / f"{rounds}{i}",
            )
            state = read_trainer(tmp_path / f"{rounds}{i}")[0]
        of_critic = {n: p.detach() for n, p in policy.value_parameters().items()}
        found.append(
            (
                state.value_step,
                of_critic | {n: m for n, m in state.moments.items() if n.startswith(("value", "critic"))},
            )
        )
    assert found[0][0] == found[1][0] == 8
    assert found[0][1].keys() == found[1][1].keys()
    for name, tensor in found[0][1].items():
        assert torch.equal(tensor, found[1][1][name]), name
    between = load_file(tmp_path / "v-v1" / "value_head.safetensors")
    assert torch.equal(
        between["value_head.linear.weight"],
        load_file(tmp_path / "v-v0" / "value_head.safetensors")["value_head.linear.weight"],
    )
