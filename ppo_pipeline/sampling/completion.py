"""A sampled response."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Completion:
    """A response: token ids (the stop token included), log probabilities and kept mass of each, `stop` or `length`."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    finish_reason: str = "length"

    def text(self, tokenizer: Any) -> str:
        """Return the response without the token that ended it, be it the model's own or a text such as "#"."""
        ids = self.ids[:-1] if self.finish_reason == "stop" else self.ids
        return str(tokenizer.decode(ids, skip_special_tokens=True))
