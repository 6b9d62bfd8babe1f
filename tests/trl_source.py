"""TRL's own code, to compare with: its functions, and the statements that stand inline in its trainers' methods.

No formula of TRL is copied here. The inline statements are found in the installed source by the names that they
assign, compiled and run with the variables of a random batch.
"""

import ast
import functools
import importlib
import inspect
import os
from dataclasses import dataclass
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
TRL = pytest.importorskip("trl", reason="TRL is an extra: pip install -c constraints.txt -e '.[test,trl]'")
TRAINER = importlib.import_module("trl.experimental.ppo.ppo_trainer")

VOCABULARY, CONTEXT, PAD, STOP = 7, 2, 0, 1
SETTINGS: dict[str, Any] = {
    "kl_coef": 0.05, "kl_estimator": "k1", "gamma": 1.0, "lam": 0.95, "whiten_rewards": False,
    "temperature": 0.7, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1,
}  # fmt: skip


Place = tuple[ModuleType, str, str]  # module, class, method
PPO: Place = (TRAINER, "PPOTrainer", "train")


@functools.cache
def inline(first: str, last: str, place: Place = PPO) -> CodeType:
    """Return a method's statements from the first that assigns `first` to the last that does `last`.

    Both stand in one block, which must be the only such block: otherwise TRL has changed and the test fails.
    """
    found = []
    for node in ast.walk(_method(place)):
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if not isinstance(block, list):
                continue
            starts = [i for i, statement in enumerate(block) if first in _assigned(statement)]
            ends = [i for i, statement in enumerate(block) if last in _assigned(statement)]
            if starts and ends and starts[0] <= ends[-1]:
                found.append(block[starts[0] : ends[-1] + 1])
    if len(found) != 1:
        pytest.fail(
            f"{_name(place)} has {len(found)} blocks that assign {first!r} and then "
            f"{last!r}; 1 was expected, as in TRL 1.12.0"
        )
    return compile(ast.Module(body=found[0], type_ignores=[]), f"<{_name(place)}, {first} to {last}>", "exec")


def _method(place: Place) -> ast.FunctionDef:
    module, cls, method = place
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name == method:
                    return function
    pytest.fail(f"there is no {_name(place)}, which TRL 1.12.0 has")


def _name(place: Place) -> str:
    return f"{place[1]}.{place[2]} of TRL {TRL.__version__}"


def _assigned(statement: ast.stmt) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def run(first: str, last: str, place: Place = PPO, /, **given: Any) -> SimpleNamespace:
    """Run TRL's statements with `given` beside the names of TRL's module, and return all names after it."""
    names = vars(place[0]) | given
    try:
        exec(inline(first, last, place), names)
    except NameError as error:
        pytest.fail(f"{_name(place)} uses a variable unknown in TRL 1.12.0: {error}")
    return SimpleNamespace(**names)


@dataclass
class Batch:
    """Padded responses, float64. Behind a response's end everything but the token is noise, as a model gives it."""

    tokens: Tensor  # (B, T)
    real: Tensor  # (B, T) bool: the response's own tokens, its stop token included
    logits: Tensor  # (B, CONTEXT + T, V) of the policy as it is now; not divided by the temperature
    new_values: Tensor  # (B, CONTEXT + T)
    logprobs: Tensor  # (B, T) as the batch was sampled
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor  # (B,)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response."""
        return self.real.sum(1)


def random_batch(seed: int) -> Batch:
    """Return ragged responses, the longest as wide as the batch; the shorter ones end in the stop token."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=rng)

    rows = int(integers(3, 8))
    width = int(integers(2, 9))
    lengths = integers(1, width, rows)
    lengths[int(integers(0, rows - 1))] = width
    places = torch.arange(width).expand(rows, width)
    tokens = integers(2, VOCABULARY - 1, rows, width)
    tokens[(places == lengths[:, None] - 1) & (lengths[:, None] < width)] = STOP
    tokens[places >= lengths[:, None]] = PAD
    logits, values = 2 * normal(rows, CONTEXT + width, VOCABULARY), normal(rows, width)
    now = torch.log_softmax(logits[:, CONTEXT - 1 : -1] / SETTINGS["temperature"], -1)
    logprobs = now.gather(-1, tokens[..., None]).squeeze(-1) + 0.3 * normal(rows, width)
    new_values = normal(rows, CONTEXT + width)
    new_values[:, CONTEXT - 1 : -1] = values + 0.3 * normal(rows, width)
    return Batch(
        tokens, places < lengths[:, None], logits, new_values,
        logprobs, logprobs + 0.5 * normal(rows, width), values, 3 * normal(rows),
    )  # fmt: skip


def with_extra_token(batch: Batch) -> tuple[Tensor, np.ndarray]:
    """Return TRL's mask for rewards and values, and its row lengths: one token more where the batch has room."""
    lengths = (batch.lengths + 1).clamp(max=batch.tokens.shape[1])
    return torch.arange(batch.tokens.shape[1]) < lengths[:, None], lengths.numpy()


def trl_targets(batch: Batch, **settings: Any) -> SimpleNamespace:
    """Run TRL from the response ends to the whitened advantages."""
    processing = SimpleNamespace(pad_token_id=PAD)
    ends = run("sequence_length", "sequence_length", postprocessed_response=batch.tokens, processing_class=processing)
    return run(
        "response_idxs", "advantages", args=SimpleNamespace(**SETTINGS | settings), responses=batch.tokens,
        sequence_lengths=ends.sequence_length, logprobs=batch.logprobs, ref_logprobs=batch.ref_logprobs,
        values=batch.values, scores=batch.scores,
    )  # fmt: skip


def trl_microbatch(
    batch: Batch, targets: SimpleNamespace, rows: Tensor | None = None, **settings: Any
) -> SimpleNamespace:
    """Run TRL from a microbatch's forward pass to its loss and statistics; the forward gives the batch's logits."""
    rows = torch.arange(len(batch.tokens)) if rows is None else rows

    def forward(*ignored: object) -> tuple[SimpleNamespace, Tensor]:
        return SimpleNamespace(logits=batch.logits[rows]), batch.new_values[rows].unsqueeze(-1)

    names = vars(targets) | {
        "args": SimpleNamespace(**SETTINGS | settings), "micro_batch_inds": rows, "context_length": CONTEXT,
        "processing_class": SimpleNamespace(pad_token_id=PAD),
        "query_responses": batch.tokens, "forward": forward, "model": None,  # handed on to `forward` alone
    }  # fmt: skip
    after = run("mb_advantage", "loss", **names)
    with torch.no_grad():
        return run("pg_clipfrac", "approxkl", **vars(after))
