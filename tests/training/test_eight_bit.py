"""Moments in 8 bits: codes against bitsandbytes' and a slow search, steps against torch.optim.AdamW's."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from updating import make_policy, update_settings

from ppo_pipeline.models.checkpoint import TrainerState, read_trainer, save_trainer
from ppo_pipeline.project.memory.plan import EIGHT_BITS
from ppo_pipeline.training import eight_bit
from ppo_pipeline.training.eight_bit import (
    CODES,
    EightBitAdamW,
    dequantized,
    is_kept_in_8_bits,
    moment_bytes,
    quantized,
    tables,
    values_of,
    widened,
)
from ppo_pipeline.training.optimizer import make_optimizer, moments_of, trained_parameters
from ppo_pipeline.training.split_adamw import SplitAdamW, join

BETAS, EPS, DECAY, LR = (0.9, 0.999), 1e-8, 0.01, 1e-3
SIGNED = pytest.mark.parametrize("signed", [True, False])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@SIGNED
def test_the_codes_are_those_of_bitsandbytes(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(values_of(signed), functional.create_dynamic_map(signed))


@SIGNED
def test_numbers_with_the_same_upper_half_have_one_middle_between_them_at_most(signed: bool) -> None:
    """On this the look-up rests."""
    middles = tables(signed, torch.device("cpu"))[2][:-1]
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    ends = torch.stack([upper.view(torch.float32), (upper + 0xFFFF).view(torch.float32)])
    ends = ends[:, ~ends.isnan().any(0)]
    between = torch.bucketize(ends.amax(0), middles) - torch.bucketize(ends.amin(0), middles)
    assert between.max() == 1


def distances(scaled: float, signed: bool) -> list[float]:
    """Return how far a number is from what each code stands for."""
    return [abs(scaled - value) for value in values_of(signed).double().tolist()]


@SIGNED
@given(numbers=st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=40))
def test_each_number_gets_the_nearest_code(signed: bool, numbers: list[float]) -> None:
    row = torch.tensor([numbers]) if signed else torch.tensor([numbers]).abs()
    codes, scales = quantized(row, signed)
    assert scales.item() == row.abs().max()
    back = dequantized(codes, scales, signed)
    for x, code, found in zip(row[0].tolist(), codes[0].tolist(), back[0].tolist(), strict=True):
        scaled = torch.tensor(x) / scales[0, 0].clamp_min(eight_bit.SMALLEST)
        far = distances(scaled.item(), signed)
        if not signed and x > 0:
            far[0] = 2.0  # never 0
        assert far[code] <= min(far) * (1 + 1e-5)  # a middle is rounded to fp32
        assert found == pytest.approx(values_of(signed)[code].item() * scales.item(), rel=1e-6, abs=1e-37)


def test_blocks_are_of_256_and_end_with_their_row() -> None:
    """A number that is a thousand times the others' size spoils its own block alone."""
    numbers = torch.randn(3, 600, generator=torch.Generator().manual_seed(0))
    numbers[1, 300] = 1000.0
    codes, scales = quantized(numbers, True)
    assert codes.shape == (3, 600) and codes.dtype == torch.uint8 and scales.shape == (3, 3)
    error = (dequantized(codes, scales, True) - numbers).abs()
    spoilt = torch.zeros(3, 600, dtype=torch.bool)
    spoilt[1, 256:512] = True
    assert error[~spoilt].max() < 0.02 * numbers[~spoilt].abs().max()
    assert error[spoilt].max() > 0.1


def trained(dtype: torch.dtype, steps: int, cls: type = EightBitAdamW, rows: slice = slice(None)) -> tuple[Tensor, ...]:
    """Return fp32 weights and the moments' tensors after steps whose gradients differ by column, up to 10,000 times."""
    weight = torch.randn(30, 700, generator=torch.Generator().manual_seed(1)).to(dtype)[rows].clone().requires_grad_()
    optimizer = cls([{"params": [weight], "lr": LR}], BETAS, EPS, DECAY)
    for step in range(steps):
        grad = torch.randn(30, 700, generator=torch.Generator().manual_seed(step)) * torch.logspace(-4, 0, 700)
        weight.grad = grad.to(dtype)[rows].clone()
        optimizer.step()
    state = optimizer.state[weight]
    wide = weight.detach() if dtype == torch.float32 else join(weight.detach(), state["low"])
    return wide, *(state[name] for name in state if name != "step")


@DTYPES
def test_a_step_is_adamw_s_from_the_moments_that_were_kept(dtype: torch.dtype, either_kernels: None) -> None:
    """Ten steps; each from what the one before has left, by torch's AdamW in fp32."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(20, 300, generator=generator).to(dtype).requires_grad_()
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, EPS, DECAY)
    for step in range(10):
        weight.grad = torch.randn(20, 300, generator=generator).to(dtype)
        state = {k: v.clone() for k, v in ours.state[weight].items()}
        wide = weight.detach().float() if "low" not in state else join(weight.detach(), state["low"])
        plain = wide.clone().requires_grad_()
        theirs = torch.optim.AdamW([plain], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
        if state:
            theirs.state[plain] = {n: t for n, t in widened(state).items() if n != "low"}
        plain.grad = weight.grad.float()
        ours.step()
        theirs.step()
        kept = ours.state[weight]
        found = weight.detach() if "low" not in kept else join(weight.detach(), kept["low"])
        torch.testing.assert_close(found, plain.detach(), atol=2e-7, rtol=1e-6)
        for name, moment in widened(kept).items():
            if name in CODES:  # the worst of a code's decade: 7 % at its lower end, twice that for a square
                torch.testing.assert_close(moment, theirs.state[plain][name], atol=1e-3, rtol=0.15)
        assert kept["step"] == step + 1


@DTYPES
def test_kernel_and_torch_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding, by which a number here and there gets the code beside."""
    made = trained(dtype, 2)
    monkeypatch.setattr(eight_bit, "serves", lambda *_: False)
    monkeypatch.setattr(eight_bit, "ROWS", 1500)  # two rows at a time
    weights, *kept = trained(dtype, 2)
    torch.testing.assert_close(made[0], weights, atol=LR * 0.1, rtol=0)
    assert (made[0] - weights).abs().mean() < LR * 1e-3
    pairs = zip(CODES.values(), (made[1:3], made[3:5]), (kept[:2], kept[2:4]), strict=True)
    for signed, (codes, scales), other in pairs:
        torch.testing.assert_close(scales, other[1], atol=0, rtol=1e-5)
        assert (codes != other[0]).float().mean() < 0.005
        off = (dequantized(codes, scales, signed) - dequantized(*other, signed)).abs()
        assert (off < 0.02 * scales.repeat_interleave(256, 1)[:, :700]).all()


@DTYPES
def test_rows_shared_out_make_the_same_bits(dtype: torch.dtype, either_kernels: None) -> None:
    whole = trained(dtype, 4)
    parts = [trained(dtype, 4, rows=rows) for rows in (slice(0, 7), slice(7, 30))]
    for tensor, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(pieces))


def test_threads_change_no_bit() -> None:
    made = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made.append(trained(torch.bfloat16, 3))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_a_hundred_steps_end_near_those_in_fp32(either_kernels: None) -> None:
    """By a twentieth of the way that the weights have gone, on average."""
    found, wanted = trained(torch.float32, 100)[0], trained(torch.float32, 100, SplitAdamW)[0]
    start = trained(torch.float32, 0, rows=slice(None))[0]
    assert (found - wanted).abs().mean() < 0.05 * (wanted - start).abs().mean()


def test_a_weight_whose_gradient_ends_is_never_divided_by_eps_alone(either_kernels: None) -> None:
    """Its second moment is far below its block's: a code of v, not of its root, would be 0, and the step m / eps."""
    weight = torch.zeros(2, 256, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, EPS, 0.0)
    for step in range(20):
        weight.grad = torch.full((2, 256), 1e-4 if step < 2 else 0.0)
        weight.grad[:, 0] = 1.0
        ours.step()
    assert weight.detach().abs().max() < 21 * LR


def test_zeros_not_a_number_and_no_rows(either_kernels: None) -> None:
    weight, none = torch.ones(2, 100, requires_grad=True), torch.ones(0, 100, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight, none], "lr": LR}], BETAS, EPS, 0.0)
    weight.grad, none.grad = torch.zeros(2, 100), torch.zeros(0, 100)
    ours.step()
    assert torch.equal(weight, torch.ones(2, 100))
    weight.grad[0, 3] = float("nan")
    ours.step()
    assert weight[0, 3].isnan() and not weight[1].isnan().any()
    assert ours.state[none].keys() == ours.state[weight].keys()  # a rank without rows sends as many tensors as others


def test_short_rows_and_vectors_stay_in_fp32() -> None:
    shapes = {(576, 8): False, (576,): False, (8, 576): True, (1, 64): True, (4, 63): False, (6, 4, 16): True}
    assert {shape: is_kept_in_8_bits(torch.zeros(shape)) for shape in shapes} == shapes


def step_all(policy: object, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in trained_parameters(policy).values():  # type: ignore[arg-type]
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize(
    ("first", "then"), [("adamw_8bit", "adamw_8bit"), ("adamw_8bit", "adamw"), ("adamw", "adamw_8bit")]
)
def test_moments_go_through_files_and_from_one_form_into_the_other(
    first: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bit, "SHORTEST", 16)
    policy = make_policy(tuning="full")
    optimizer = make_optimizer(policy, update_settings(optimizer=first), TrainerState())
    step_all(policy, optimizer, range(3))
    state = TrainerState(optimizer_step=3, value_step=3, moments=moments_of(policy, optimizer))
    save_trainer(policy, state, tmp_path)
    again = make_optimizer(policy, update_settings(optimizer=then), read_trainer(tmp_path)[0])
    for parameter in trained_parameters(policy).values():
        before, after = optimizer.state[parameter], again.state[parameter]
        assert (after["exp_avg"].dtype == torch.uint8) == (then == "adamw_8bit" and is_kept_in_8_bits(parameter))
        assert before["step"] == after["step"]
        if first == then:
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
        for name, moment in widened(before).items():
            torch.testing.assert_close(widened(after)[name], moment, atol=1e-2, rtol=0.15)
    step_all(policy, again, range(3, 5))
    assert all(parameter.isfinite().all() for parameter in trained_parameters(policy).values())


def test_memory_is_what_is_computed() -> None:
    weight = torch.zeros(50, 1024, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, EPS, 0.0)
    weight.grad = torch.ones(50, 1024)
    ours.step()
    found = sum(t.nbytes for name, t in ours.state[weight].items() if name != "step")
    assert found == moment_bytes(weight) == EIGHT_BITS * weight.numel()
