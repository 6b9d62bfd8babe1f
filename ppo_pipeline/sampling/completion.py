"""A sampled response."""

from dataclasses import dataclass, field


@dataclass
class Completion:
    """A response: token ids (the stop token included), log probabilities and kept mass of each, `stop` or `length`."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    finish_reason: str = "length"
