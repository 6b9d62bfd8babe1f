"""AdamW for bf16 weights against torch.optim.AdamW on fp32 ones."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from updating import update_settings

from ppo_pipeline.models.checkpoint import TrainerState, read_trainer, save_trainer
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.training import optimizer as optimizer_module
from ppo_pipeline.training import split_adamw
from ppo_pipeline.training.optimizer import gradient_norm, make_optimizer, moments_of, trained_parameters
from ppo_pipeline.training.split_adamw import SplitAdamW, join, split

BETAS, EPS, DECAY = (0.9, 0.999), 1e-5, 0.01


def of_bits(bits: torch.Tensor) -> torch.Tensor:
    return bits.to(torch.int32).view(torch.float32)


def check_split(wide: torch.Tensor) -> None:
    """The upper half is torch's own rounding; the halves give back every bit, but for one unit at a tie."""
    high, low = split(wide.clone())
    assert torch.equal(high.view(torch.int16), wide.bfloat16().view(torch.int16))
    off = join(high, low).view(torch.int32).long() - wide.view(torch.int32).long()
    lower = wide.view(torch.int32) & 0xFFFF
    rounded_down = (high.view(torch.int16).int() << 16) == (wide.view(torch.int32) & ~0xFFFF)
    tie = (lower == 0x8000) & rounded_down
    assert torch.equal(off, torch.where(tie, -1, 0))


def test_split_and_join_are_exact_for_all_bit_patterns_of_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1_000_000,), generator=generator)
    wide = of_bits(bits)
    check_split(wide[~wide.isnan()])


def test_split_and_join_at_the_edges() -> None:
    """All lower halves around chosen upper halves: zeros, denormals, ordinary numbers, the largest ones."""
    uppers = torch.tensor([0x0000, 0x0001, 0x3F80, 0x3F81, 0x7F7F, 0x7F7E, 0x007F, 0x0080])
    uppers = torch.cat([uppers, uppers - 0x8000])  # both signs
    wide = of_bits(((uppers[:, None] << 16) + torch.arange(0x10000)).flatten())
    check_split(wide)
    ties = torch.tensor([0x3F808000, 0x3F818000])  # 1 + 2^-8 goes down to even, the next one up
    high, low = split(of_bits(ties))
    assert (join(high, low).view(torch.int32) - ties.int()).tolist() == [-1, 0]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_split_and_join_of_any_floats(numbers: list[float]) -> None:
    check_split(torch.tensor(numbers, dtype=torch.float32))


def pair(size: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same random weights as a bf16 and as an fp32 parameter."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(size, generator=generator).bfloat16()
    return weight.clone().requires_grad_(), weight.float().requires_grad_()


def master(parameter: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    return join(parameter.detach(), optimizer.state[parameter]["low"])


def units_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.detach().view(torch.int32).long() - b.detach().view(torch.int32).long()).abs()


@pytest.mark.parametrize("chunk", [1 << 24, 777])
def test_steps_equal_fp32_adamw_to_the_last_bits(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 steps over the same gradients; a chunk size that divides nothing changes none of them."""
    monkeypatch.setattr(split_adamw, "CHUNK", chunk)
    narrow, wide = pair()
    ours = SplitAdamW([{"params": [narrow], "lr": 1e-3}], BETAS, EPS, DECAY)
    theirs = torch.optim.AdamW([wide], lr=1e-3, betas=BETAS, eps=EPS, weight_decay=DECAY, foreach=False)
    generator = torch.Generator().manual_seed(2)
    for step in range(200):
        narrow.grad = torch.randn(5000, generator=generator).bfloat16()
        wide.grad = narrow.grad.float()
        ours.step()
        theirs.step()
        off = units_apart(master(narrow, ours), wide)
        if step == 0:
            assert off.max() <= 1
            assert (off > 0).float().mean() < 1e-3
    assert off.max() <= 2  # the one unit of a tie, doubled where a number falls below a power of two
    assert (off > 0).float().mean() < 0.005
    assert torch.equal(ours.state[narrow]["exp_avg"], theirs.state[wide]["exp_avg"])
    assert torch.equal(ours.state[narrow]["exp_avg_sq"], theirs.state[wide]["exp_avg_sq"])
    assert ours.state[narrow]["step"] == theirs.state[wide]["step"] == 200
    assert (narrow.float() - wide.bfloat16().float()).abs().max() <= 2**-8 * 4  # a bf16 unit at most


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("chunk", [1 << 24, 777])
def test_a_parameter_in_fp32_takes_exactly_adamw_s_steps(
    foreach: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_adamw, "CHUNK", chunk)
    _, one = pair()
    _, two = pair()
    ours = SplitAdamW([{"params": [one], "lr": 1e-3}], BETAS, EPS, DECAY)
    theirs = torch.optim.AdamW([two], lr=1e-3, betas=BETAS, eps=EPS, weight_decay=DECAY, foreach=foreach)
    for step in range(20):
        one.grad = torch.sin(torch.arange(5000.0) + step)
        two.grad = one.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(one, two)


def test_tiny_steps_are_not_lost() -> None:
    """1000 steps of 1e-6 of the weight's size: 0.1 %, of which bf16 alone keeps nothing."""
    narrow = torch.full((100,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    plain = torch.full((100,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    ours = SplitAdamW([{"params": [narrow], "lr": 1e-6}], BETAS, 1e-8, 0.0)
    theirs = torch.optim.AdamW([plain], lr=1e-6, betas=BETAS, weight_decay=0.0)
    for _ in range(1000):
        narrow.grad, plain.grad = torch.ones_like(narrow), torch.ones_like(plain)
        ours.step()
        theirs.step()
    assert torch.equal(plain, torch.ones_like(plain))
    torch.testing.assert_close(master(narrow, ours), torch.full((100,), 0.999), atol=4e-5, rtol=0)
    more = [narrow.detach().clone()]
    for _ in range(3000):
        narrow.grad = torch.ones_like(narrow)
        ours.step()
    more.append(narrow.detach())
    assert (more[1] < more[0]).all()


def full_policy(dtype: torch.dtype) -> Policy:
    model = tiny_model("llama").to(torch.bfloat16).to(dtype).requires_grad_(True)
    return Policy(model, {}, ValueHead(32))


def train(policy: Policy, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps with made-up gradients that bf16 holds exactly."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in trained_parameters(policy).values():
            drawn = torch.randn(parameter.shape, generator=generator).bfloat16()
            parameter.grad = drawn.to(parameter.dtype)
        optimizer.step()


def masters(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    named = trained_parameters(policy)
    return {n: master(p, optimizer) if "low" in optimizer.state[p] else p.detach() for n, p in named.items()}


def saved_and_loaded(policy: Policy, optimizer: torch.optim.Optimizer, steps: int, folder: Path) -> TrainerState:
    state = TrainerState(optimizer_step=steps, value_step=steps, moments=moments_of(policy, optimizer))
    save_trainer(policy, state, folder)
    return read_trainer(folder)[0]


def weights_copied(source: Policy, target: Policy) -> None:
    with torch.no_grad():
        for name, parameter in trained_parameters(target).items():
            parameter.copy_(trained_parameters(source)[name])


@pytest.mark.parametrize("after", [torch.bfloat16, torch.float32])
def test_saving_and_loading_keeps_the_fp32_weights(after: torch.dtype, tmp_path: Path) -> None:
    """5 steps, saved and loaded in bf16 or fp32, 5 more: as 10 steps of fp32 AdamW without a break."""
    settings = update_settings(lr=1e-4, weight_decay=0.01)
    policy = full_policy(torch.bfloat16)
    optimizer = make_optimizer(policy, settings, TrainerState())
    assert isinstance(optimizer, SplitAdamW)
    train(policy, optimizer, range(5))
    state = saved_and_loaded(policy, optimizer, 5, tmp_path)
    resumed = full_policy(after)
    weights_copied(policy, resumed)
    again = make_optimizer(resumed, settings, state)
    assert isinstance(again, SplitAdamW) == (after == torch.bfloat16)
    for name, kept in masters(policy, optimizer).items():
        assert torch.equal(masters(resumed, again)[name], kept), name
    train(resumed, again, range(5, 10))

    plain = full_policy(torch.float32)
    named = trained_parameters(plain)
    groups = [
        {"params": [p for n, p in named.items() if "value" not in n], "lr": 1e-4},
        {"params": [p for n, p in named.items() if "value" in n], "lr": 0.02},
    ]
    theirs = torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.01)
    train(plain, theirs, range(10))
    for name, found in masters(resumed, again).items():
        torch.testing.assert_close(found, named[name].detach(), atol=1e-7, rtol=1e-6)


def test_large_fp32_weights_are_stepped_in_chunks_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    for large in (100, 1 << 40):
        monkeypatch.setattr(split_adamw, "LARGE", large)
        policy = full_policy(torch.float32)
        optimizer = make_optimizer(policy, update_settings(weight_decay=0.01), TrainerState())
        assert isinstance(optimizer, SplitAdamW) == (large == 100)
        train(policy, optimizer, range(3))
        named = {name: p.detach() for name, p in trained_parameters(policy).items()}
        made[large] = named | moments_of(policy, optimizer)
    few, many = made.values()
    assert few.keys() == many.keys()
    assert all(torch.equal(few[name], many[name]) for name in few)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_gradient_norm_of_a_large_weight_is_exact(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64; as one sum in fp32 it is off by 0.04 % at 17 million numbers, by 2 % at 155."""
    parameters = [torch.zeros(1 << 24, dtype=dtype), torch.zeros(3, dtype=dtype)]
    for parameter in parameters:
        parameter.grad = torch.rand(len(parameter), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = sum(p.double().square().sum() for g in parameters for p in g.grad.split(1 << 20)) ** 0.5
    monkeypatch.setattr(optimizer_module, "WHOLE", 1 << 22)
    assert abs(gradient_norm(parameters).item() / expected - 1) < 1e-4


def test_fp32_weights_that_go_on_in_bf16_keep_small_steps(tmp_path: Path) -> None:
    """The other direction: what bf16 cannot hold of the weights is rounded once, later steps are not."""
    settings = update_settings(lr=1e-6, adam_eps=1e-8)
    policy = full_policy(torch.float32)
    optimizer = make_optimizer(policy, settings, TrainerState())
    train(policy, optimizer, range(3))
    state = saved_and_loaded(policy, optimizer, 3, tmp_path)
    narrow, wide = full_policy(torch.bfloat16), full_policy(torch.float32)
    weights_copied(policy, narrow)
    weights_copied(narrow, wide)
    ours, theirs = (make_optimizer(narrow, settings, state), make_optimizer(wide, settings, read_trainer(tmp_path)[0]))
    train(narrow, ours, range(3, 20))
    train(wide, theirs, range(3, 20))
    found = masters(narrow, ours)
    for name, expected in masters(wide, theirs).items():
        torch.testing.assert_close(found[name], expected, atol=1e-8, rtol=1e-6)
