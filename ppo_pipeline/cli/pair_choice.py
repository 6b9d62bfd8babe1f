"""Which pairs are made of a prompt's samples."""

import hashlib
from collections import Counter
from itertools import combinations
from typing import NamedTuple


class Sample(NamedTuple):
    """A sampled answer: where it came from, its text, and its score and components by name."""

    round: str
    sample_id: str
    prompt_id: str
    prompt_text: str
    text: str
    scores: dict[str, float]


Two = tuple[Sample, Sample]


def pairs_of(
    samples: list[Sample], by: str | None, min_gap: float, most: int | None, left_out: Counter[str]
) -> list[Two]:
    """Return pairs of one prompt's samples, that of the higher score `by` first; without `by` in the samples' order.

    Of samples with the same text the first counts. Pairs of equal scores, or nearer than `min_gap`, are left out.
    most: how many pairs at most; which ones, a hash of the samples' names decides, whatever the order of the rounds.
    left_out gets the number of samples and pairs that are left out, by what for.
    """
    texts: dict[str, Sample] = {}
    for sample in samples:
        if not sample.text.strip():
            left_out["empty answers"] += 1
        elif sample.text in texts:
            left_out["answers equal to another of their prompt"] += 1
        else:
            texts[sample.text] = sample
    pairs = [*combinations(texts.values(), 2)]
    if not pairs:
        left_out["prompts with fewer than two different answers"] += 1
    if by is not None:
        ordered = [pair if pair[0].scores[by] >= pair[1].scores[by] else pair[::-1] for pair in pairs]
        apart = [pair for pair in ordered if pair[0].scores[by] != pair[1].scores[by]]
        pairs = [pair for pair in apart if pair[0].scores[by] - pair[1].scores[by] >= min_gap]
        left_out["pairs with equal scores"] += len(ordered) - len(apart)
        left_out["pairs nearer than --min-gap"] += len(apart) - len(pairs)
    if most is not None and len(pairs) > most:
        left_out["pairs beyond --per-prompt"] += len(pairs) - most
        kept = {*sorted(map(_digest, pairs))[:most]}
        pairs = [pair for pair in pairs if _digest(pair) in kept]
    return pairs


def _digest(pair: Two) -> str:
    names = sorted(f"{sample.round}/{sample.sample_id}" for sample in pair)
    return hashlib.sha256(" ".join(names).encode()).hexdigest()
