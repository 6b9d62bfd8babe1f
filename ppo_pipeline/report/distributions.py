"""For each round the distribution of score, KL and length: quantiles, and counts in bins that all rounds share."""

from typing import Any

import numpy as np

from .metric_titles import Title
from .round_data import RoundData

TITLES = {
    "score": Title("Score", "reward"),
    "kl": Title("KL to the base model", "nats a response"),
    "length": Title("Response length", "tokens"),
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 30


def distributions(rounds: list[RoundData]) -> list[dict[str, Any]]:
    """Return for each quantity {key, title, unit, edges, rounds: {name: {quantiles, mean, std, count, counts}}}."""
    found = []
    for key, title in TITLES.items():
        samples = {r.name: r.numbers[key] for r in rounds if key in r.numbers and len(r.numbers[key])}
        if samples:
            edges = bin_edges(np.concatenate(list(samples.values())), whole=key == "length")
            per_round = {name: summary(numbers, edges) for name, numbers in samples.items()}
            found.append(
                {"key": key, "title": title.words, "unit": title.unit, "edges": rounded(edges), "rounds": per_round}
            )
    return found


def bin_edges(numbers: np.ndarray, whole: bool) -> np.ndarray:
    """Return at most BINS + 1 edges over all of `numbers`; with `whole`, bins hold the same count of whole numbers."""
    low, high = float(numbers.min()), float(numbers.max())
    if whole:
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(low - 0.5, high + width, width)
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    return np.linspace(low, high, BINS + 1)


def summary(numbers: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Return quantiles, mean, standard deviation, count, and the count in each bin."""
    return {
        "quantiles": rounded(np.quantile(numbers, QUANTILES)),
        "mean": rounded(numbers.mean()),
        "std": rounded(numbers.std()),
        "count": len(numbers),
        "counts": np.histogram(numbers, edges)[0].tolist(),
    }


def rounded(numbers: np.ndarray) -> Any:
    """Return numbers as Python floats with four decimals, as the page shows them."""
    return (np.round(np.asarray(numbers, dtype=np.float64), 4) + 0.0).tolist()
