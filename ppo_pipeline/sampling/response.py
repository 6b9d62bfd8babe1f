"""A sampled response."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Response:
    """A response: token ids (the stop token included), log probabilities and kept mass of each, `stop` or `length`."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    finish_reason: str = "length"

    def text(self, tokenizer: Any) -> str:
        """Return the response without the token that ended it, be it the model's own or a text such as "#"."""
        ids = self.ids[:-1] if self.finish_reason == "stop" else self.ids
        return str(tokenizer.decode(ids, skip_special_tokens=True))


def length_metrics(responses: list[Response]) -> dict[str, float]:
    """Return lengths of one or more responses, and the share that ended by itself."""
    lengths = [len(c.ids) for c in responses]
    return {
        "response_length": float(np.mean(lengths)),
        "response_length_max": max(lengths),
        "finished": float(np.mean([c.finish_reason == "stop" for c in responses])),
    }
