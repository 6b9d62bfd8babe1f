"""A sampled response; many as arrays, for a file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import PipelineError

LISTS = {"ids": np.int32, "logprobs": np.float32, "kept_mass": np.float32}


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


def check_numbers(logprobs: Iterable[ArrayLike], folder: Path) -> None:
    """Raise PipelineError where a response's logprob is no number: its tokens mean nothing. folder: of the policy."""
    if not all(np.isfinite(each).all() for each in logprobs):
        raise PipelineError(f"{folder}: the policy gives logits that are no numbers; its weights are damaged.")


def length_metrics(responses: list[Response]) -> dict[str, float]:
    """Return lengths of one or more responses, and the share that ended by itself."""
    lengths = [len(c.ids) for c in responses]
    return {
        "response_length": float(np.mean(lengths)),
        "response_length_max": max(lengths),
        "finished": float(np.mean([c.finish_reason == "stop" for c in responses])),
    }


def joined(responses: list[Response]) -> dict[str, np.ndarray]:
    """Return responses as arrays: `lengths` (N,), `stopped` (N,), and ids, logprobs, kept_mass one behind the other."""
    columns = {name: np.array([x for r in responses for x in getattr(r, name)], kind) for name, kind in LISTS.items()}
    lengths = np.array([len(r.ids) for r in responses], np.int32)
    return {"lengths": lengths, "stopped": np.array([r.finish_reason == "stop" for r in responses]), **columns}


def parted(arrays: dict[str, np.ndarray]) -> list[Response]:
    """Return the responses whose arrays these are."""
    ends = np.cumsum(arrays["lengths"])[:-1]
    ids, logprobs, kept = ([part.tolist() for part in np.split(arrays[name], ends)] for name in LISTS)
    reasons = ["stop" if stopped else "length" for stopped in arrays["stopped"]]
    return [Response(*each) for each in zip(ids, logprobs, kept, reasons, strict=True)]
