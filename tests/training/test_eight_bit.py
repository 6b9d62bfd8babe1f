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
def test_numbers_with_the_same_upper_half_have_one_border_between_them_at_most(signed: bool) -> None:
    """On this the look-up rests."""
    borders = tables(signed, torch.device("cpu"))[2][:-1]
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    ends = torch.stack([upper.view(torch.float32), (upper + 0xFFFF).view(torch.float32)])
    ends = ends[:, ~ends.isnan().any(0)]
    between = torch.bucketize(ends.amax(0), borders) - torch.bucketize(ends.amin(0), borders)
    assert between.max() == 1


def distances(scaled: float, signed: bool) -> list[float]:
    """Return how far a number is from what each code stands for."""
    return [abs(scaled - value) for value in values_of(signed).double().tolist()]


@SIGNED
@given(numbers=st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=40), step=st.integers(0, 2**31))
def test_each_number_gets_the_nearest_code_or_a_root_one_of_both_beside_it(
    signed: bool, numbers: list[float], step: int
) -> None:
    row = torch.tensor([numbers]) if signed else torch.tensor([numbers]).abs()
    codes, scales = quantized(row, signed, step)
    assert scales.item() == row.abs().max()
    back, values = dequantized(codes, scales, signed), values_of(signed).double().tolist()
    for x, code, found in zip(row[0].tolist(), codes[0].tolist(), back[0].tolist(), strict=True):
        scaled = (torch.tensor(x) / scales[0, 0].clamp_min(eight_bit.SMALLEST)).item()
        if signed:
            far = distances(scaled, signed)
            assert far[code] <= min(far) * (1 + 1e-5)  # a middle is rounded to fp32
        else:
            assert (
                values[max(code - 1, 0)] < scaled < values[min(code + 1, 255)]
                or scaled in (values[code], 0.0)
                or (code == 1 and scaled < values[1])
            )
            assert (code > 0) == (x > 0)
        assert found == pytest.approx(values[code] * scales.item(), rel=1e-6, abs=1e-37)


def test_a_root_s_codes_are_right_on_average_over_steps() -> None:
    """The mean of 4000 draws lies within four standard errors of the number."""
    row = torch.cat([torch.rand(1, 255, generator=torch.Generator().manual_seed(0)) ** 4, torch.ones(1, 1)], 1)
    drawn = torch.stack([dequantized(*quantized(row, False, step), False)[0] for step in range(4000)])
    off = (drawn.mean(0) - row[0]).abs()
    assert (off <= 4 * drawn.std(0) / 4000**0.5 + 1e-6).float().mean() > 0.99
    assert (drawn.std(0)[(row[0] > 1e-5) & (row[0] < 0.99)] > 0).all()


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
            if name in CODES:  # the worst of a code's decade: a seventh at its lower end, twice that for a square
                torch.testing.assert_close(moment, theirs.state[plain][name], atol=3e-3, rtol=0.3)
        assert kept["step"] == step + 1


@DTYPES
def test_kernel_and_torch_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding: a first moment here and there gets the code beside, a root is drawn anew between the two."""
    made = trained(dtype, 1)
    monkeypatch.setattr(eight_bit, "serves", lambda *_: False)
    monkeypatch.setattr(eight_bit, "ROWS", 1500)  # two rows at a time
    weights, *kept = trained(dtype, 1)
    torch.testing.assert_close(made[0], weights, atol=LR * 0.2, rtol=0)
    assert (made[0] - weights).abs().mean() < LR * 1e-2
    pairs = zip(CODES.values(), (made[1:3], made[3:5]), (kept[:2], kept[2:4]), strict=True)
    for signed, (codes, scales), other in pairs:
        torch.testing.assert_close(scales, other[1], atol=0, rtol=0.01)  # that of one code
        assert (codes != other[0]).float().mean() < (0.005 if signed else 0.5)
        assert ((codes.int() - other[0].int()).abs() > 1).float().mean() < 0.005
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
    """But for a twentieth of the way that the weights have gone, on average."""
    found, wanted = trained(torch.float32, 100)[0], trained(torch.float32, 100, SplitAdamW)[0]
    start = trained(torch.float32, 0)[0]
    assert (found - wanted).abs().mean() < 0.05 * (wanted - start).abs().mean()


@pytest.mark.parametrize("factor", [0.0, 0.1, 3.0])
def test_a_second_moment_follows_gradients_that_change_in_size(factor: float, either_kernels: None) -> None:
    """300 steps, then 1000 in which half of each block has others: with nearest codes, none would ever shrink."""
    weight = torch.zeros(4, 512, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, EPS, 0.0)
    generator, exact = torch.Generator().manual_seed(0), torch.zeros(4, 512)
    for step in range(1300):
        weight.grad = torch.randn(4, 512, generator=generator)
        if step >= 300:
            weight.grad[:, ::2] *= factor
        exact.mul_(BETAS[1]).addcmul_(weight.grad, weight.grad, value=1 - BETAS[1])
        ours.step()
    found = widened(ours.state[weight])["exp_avg_sq"].sqrt()
    for half in (slice(0, None, 2), slice(1, None, 2)):
        assert found[:, half].mean().item() == pytest.approx(exact[:, half].sqrt().mean().item(), rel=0.03)


def test_a_weight_whose_gradient_ends_is_never_divided_by_eps_alone(either_kernels: None) -> None:
    """After one large gradient its root is a hundred millionth of the block's scale, and its first moment is not."""
    weight = torch.zeros(2, 256, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, 1e-15, 0.0)
    for step in range(80):
        weight.grad = torch.full((2, 256), 1e-8 if step < 70 else 0.0)
        weight.grad[:, 0] = float(step == 0)
        ours.step()
    assert weight.detach().abs().max() < 500 * LR


def test_zeros_not_a_number_and_no_rows(either_kernels: None) -> None:
    weight, none = torch.ones(2, 100, requires_grad=True), torch.ones(0, 100, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight, none], "lr": LR}], BETAS, EPS, 0.0)
    weight.grad, none.grad = torch.zeros(2, 100), torch.zeros(0, 100)
    ours.step()
    assert torch.equal(weight, torch.ones(2, 100))
    weight.grad[0, 3] = float("nan")
    ours.step()
    assert weight[0, 3].isnan() and not weight[1].isnan().any()
    assert ours.state[weight]["exp_avg_scale"].isnan().tolist() == [[True], [False]]  # as AdamW's moment would be
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
            torch.testing.assert_close(widened(after)[name], moment, atol=1e-2, rtol=0.3)
    step_all(policy, again, range(3, 5))
    assert all(parameter.isfinite().all() for parameter in trained_parameters(policy).values())


def test_memory_is_what_is_computed() -> None:
    weight = torch.zeros(50, 1024, requires_grad=True)
    ours = EightBitAdamW([{"params": [weight], "lr": LR}], BETAS, EPS, 0.0)
    weight.grad = torch.ones(50, 1024)
    ours.step()
    found = sum(t.nbytes for name, t in ours.state[weight].items() if name != "step")
    assert found == moment_bytes(weight) == EIGHT_BITS * weight.numel()
