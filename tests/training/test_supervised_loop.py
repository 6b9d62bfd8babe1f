"""The loop of supervised training against plain torch, cut into any microbatches, and stopped between any two."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from supervised_entries import supervised_settings
from torch import Tensor, nn

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.training.supervised.loop import SupervisedLoop

COUNT, WIDTH = 10, 3


class Regression:
    """A line through points, each of a weight of its own."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self.line, self.dropout = nn.Linear(WIDTH, 1).to(dtype), nn.Dropout(dropout)
        drawn = torch.Generator().manual_seed(1)
        self.x = torch.randn(COUNT, WIDTH, generator=drawn, dtype=dtype)
        self.y = torch.randn(COUNT, generator=drawn, dtype=dtype)
        self.names = [f"points.csv, row {i}" for i in range(COUNT)]
        self.weights, self.tokens = np.arange(1.0, COUNT + 1), np.full(COUNT, 7)
        self.size, self.seen = size, []  # type: ignore[var-annotated]

    def microbatches(self, indices: Any) -> list[Any]:
        return [indices[i : i + self.size] for i in range(0, len(indices), self.size)]

    def loss(self, indices: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(sorted(indices.tolist()))
        weights = torch.from_numpy(self.weights[indices])
        errors = (self.line(self.dropout(self.x[indices]))[:, 0] - self.y[indices]) ** 2
        return (weights * errors).sum(), {"far": (weights * (errors.detach() > 1)).sum()}


def loop_of(task: Regression, **changes: Any) -> SupervisedLoop:
    cpu = torch.device("cpu")
    return SupervisedLoop(
        task, dict(task.line.named_parameters()), supervised_settings(**changes), "sft.chat", cpu, task.x.dtype
    )


def test_a_step_is_adamw_s_on_the_weighted_mean_of_the_whole_batch_clipped() -> None:
    whole = Regression(size=COUNT)
    loop = loop_of(whole)
    loop.run(("k",))
    assert [len(batch) for batch in whole.seen] == [4, 3, 3] * 2
    assert sorted(chain(*whole.seen[:3])) == sorted(chain(*whole.seen[3:])) == list(range(COUNT))
    assert whole.seen[:3] != whole.seen[3:]

    plain = Regression(size=COUNT)
    optimizer = torch.optim.AdamW(plain.line.parameters(), lr=0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for row, batch in zip(loop.curve, whole.seen, strict=True):
        errors = (plain.line(plain.x[batch])[:, 0] - plain.y[batch]) ** 2
        weights = torch.tensor([i + 1.0 for i in batch])
        loss = sum(w * e for w, e in zip(weights, errors, strict=True)) / weights.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        norm = nn.utils.clip_grad_norm_(plain.line.parameters(), 0.5)
        optimizer.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)  # type: ignore[union-attr]
        assert row["far"] == pytest.approx((weights * (errors > 1)).sum().item() / weights.sum().item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert max(row["grad_norm"] for row in loop.curve) > 0.5  # type: ignore[type-var]
    torch.testing.assert_close(whole.line.weight, plain.line.weight)


def test_microbatches_change_nothing() -> None:
    results = []
    for size in (COUNT, 1, 3):
        task = Regression(size)
        loop = loop_of(task)
        loop.run(("k",))
        results.append((task.line.weight, [row["loss"] for row in loop.curve]))
    for weight, losses in results[1:]:
        torch.testing.assert_close(weight, results[0][0], rtol=1e-5, atol=1e-6)
        assert losses == pytest.approx(results[0][1], rel=1e-5)


def test_the_learning_rate_rises_and_falls_over_the_steps() -> None:
    loop = loop_of(Regression(COUNT), lr=1.0, lr_schedule="linear", warmup_ratio=0.3)
    loop.run(("k",))
    # 2 epochs of 3 steps; ceil(0.3 x 6) = 2 of them rise
    assert [row["lr"] for row in loop.curve] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])
    assert [row["step"] for row in loop.curve] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in loop.curve] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_the_order_depends_on_seed_and_key() -> None:
    orders = []
    for seed, key in ((3, "k"), (3, "k"), (4, "k"), (3, "l")):
        task = Regression(COUNT)
        loop_of(task, seed=seed).run((key,))
        orders.append(task.seen)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] and orders[0] != orders[3]


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_at_every_microbatch_it_ends_with_the_same_bits(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)
    plain = Regression(2, dtype, dropout=0.4)
    wanted = loop_of(plain)
    wanted.run(("k",))
    stops = 0
    while True:
        torch.manual_seed(stops)  # a new process has another random state
        task = Regression(2, dtype, dropout=0.4)
        compute = task.loss

        def once(indices: Any, task: Regression = task, compute: Any = compute) -> Any:
            if task.seen:
                raise Killed
            return compute(indices)

        task.loss = once  # type: ignore[method-assign]
        loop, told = loop_of(task), []
        try:
            loop.run(("k",), lambda *numbers: told.append(numbers), Snapshots(tmp_path / "steps", "sft"))  # noqa: B023
            break
        except Killed:
            stops += 1
    assert stops == 11  # 2 epochs of batches of 4, 3, 3 in microbatches of 2: twelve
    assert torch.equal(task.line.weight, plain.line.weight) and torch.equal(task.line.bias, plain.line.bias)
    assert loop.curve == wanted.curve
    assert told == [(4, 0), (3, 0), (3, 0), (4, 0), (3, 0), (3, 21)]
    for kind, tensor in wanted.optimizer.state[plain.line.weight].items():
        assert torch.equal(loop.optimizer.state[task.line.weight][kind], tensor)


def test_a_loss_that_is_no_number_names_its_rows() -> None:
    task = Regression(2)
    task.x[6] = torch.nan
    with pytest.raises(PipelineError, match=r"sft\.chat: in optimizer step \d the loss is nan .*points\.csv, row 6"):
        loop_of(task).run(("k",))
    task = Regression(2)
    task.line.weight.register_hook(lambda grad: grad / 0)
    with pytest.raises(PipelineError, match=r"step 1 the gradient is not finite \(points\.csv, row"):
        loop_of(task).run(("k",))
