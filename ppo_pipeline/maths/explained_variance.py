"""How well values foretell returns."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def explained_variance(values: Floats, returns: Floats) -> float:
    """Return 1 - Var(R - V) / Var(R): 1 for perfect values, 0 for constant ones, below 0 for worse; both (tokens,)."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0
