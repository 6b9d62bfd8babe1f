"""A response to be sampled."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """Prompt ids, and one uniform number per possible token (None: greedy)."""

    prompt_ids: list[int]
    uniforms: np.ndarray | None
