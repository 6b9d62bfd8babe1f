"""Estimators of the advantage, by the name that `advantage.estimator` has for them.

A new one is a function in a file of its own beside this one:

    @estimator("mine", about="...", ...)
    def mine(rewards: Floats, lengths: Integers, ...) -> Estimated:

It asks for what it needs by the names of its parameters:
    rewards: one per response token, sequences concatenated (sum of lengths,).
    lengths: (N,) tokens of each response, 1 or more.
    groups: (N,) the prompt of each response, as integers.
    values: V of the state before each token, as `rewards`; last_values: (N,) V after each response's last token. Who
        asks for `values` needs a critic.
    remembered: (N,) mean reward of each response's prompt in earlier rounds, NaN for a new one. Who asks for it needs
        advantage.memory_discount.
    gamma, lam: the settings; lam_returns, lam_alpha: lambda_returns and lambda_alpha, which are refused with an
        estimator that does not ask for them.
Settings, checks and docs/params.md know it from then on; nothing else is to be edited.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


class Estimated(NamedTuple):
    """advantages, returns: per token, sequences concatenated; returns None where no value is to be learned."""

    advantages: Floats
    returns: Floats | None


@dataclass(frozen=True)
class Estimator:
    """An estimator and what the settings must know of it.

    about: for docs/params.md. samples: responses to each prompt that it needs at least. per_response: it gives all
    tokens of a response one advantage. whiten: the `whiten_advantages` that it is defined with; None leaves it free.
    """

    name: str
    compute: Callable[..., tuple[Floats, Floats | None]]
    about: str
    samples: int = 1
    per_response: bool = False
    whiten: str | None = None

    @property
    def needs_values(self) -> bool:
        """Whether it reads a critic's values."""
        return self.reads("values")

    def reads(self, name: str) -> bool:
        """Tell whether it asks for this of the above."""
        return name in signature(self.compute).parameters

    @property
    def needs_memory(self) -> bool:
        """Whether it reads what earlier rounds remember of the prompts."""
        return self.reads("remembered")

    def __call__(self, **known: Any) -> Estimated:
        """Compute, from those of the above that the function asks for."""
        return Estimated(*self.compute(**{name: known[name] for name in signature(self.compute).parameters}))


_KNOWN: dict[str, Estimator] = {}
Function = Callable[..., tuple[Floats, Floats | None]]


def estimator(name: str, about: str, **facts: Any) -> Callable[[Function], Function]:
    """Register the function below as an estimator; facts: the further fields of Estimator."""

    def register(compute: Function) -> Function:
        _KNOWN[name] = Estimator(name, compute, about, **facts)
        return compute

    return register


def estimators() -> dict[str, Estimator]:
    """Return all of them by name: those in the files of this folder, and what was registered elsewhere."""
    _read_folder()
    return dict(sorted(_KNOWN.items()))


@cache
def _read_folder() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
