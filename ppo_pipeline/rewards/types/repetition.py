"""Rewards that fall with repetition."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ...resume.snapshots import Snapshots
from ...settings.sections import Count
from ..component import Component
from ..samples import Samples


class RepetitionComponent(Component):
    """A penalty from 0 to -1: the share of a response's n-grams that stand in it before."""

    type: Literal["repetition"]
    unit: Literal["tokens", "words"] = Field(
        description="What n-grams are of: the response's tokens, as in TRL, or words in lower case with spaces "
        "between, as in Open-R1"
    )
    ngram: Count = Field(description="Length of an n-gram")

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return `repeated` of each response, negative. `weight` is what others call max_penalty, without its sign."""
        if self.unit == "tokens":
            return [-repeated(ids, self.ngram) for ids in samples.response_ids]
        return [-repeated(text.lower().split(), self.ngram) for text in samples.responses]

    def reads_policy_view(self) -> bool | None:
        """Tell that words are of the text alone; tokens need the tokenizer."""
        return None if self.unit == "tokens" else False


def repeated(parts: Sequence[int] | Sequence[str], n: int) -> float:
    """Return 1 - (different n-grams) / (all n-grams); 0 of a text that is shorter than one.

    Source: appendix C.2 of arXiv:2502.03373; get_repetition_penalty_reward in Open-R1 (words) and TRL (tokens).
    """
    ngrams = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
