"""One random stream per sample, so that batch size and order do not choose the text."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, sample_id: str, count: int) -> NDArray[np.float64]:
    """Return `count` uniform numbers in [0, 1) that depend on the seed and the sample's id alone.

    The id names the round, so that each round draws anew. A counter-based generator (Philox 4x64) keyed by a
    hash gives independent streams (Salmon et al. 2011).
    """
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    key = int.from_bytes(digest[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count)
