"""Out of memory: how each library says it, and which setting makes a stage need less. Standard library alone."""

import errno
import re

# What a smaller value of makes the stage need less memory. Results change by rounding at most.
LOWER = {
    "rollout": "lower rollout.batch_size",
    "reward": "lower batch_tokens of the reward model in reward.components",
    "reference": "lower reference.batch_tokens",
    "update": "lower update.microbatch_tokens, or set update.gradient_checkpointing: true",
    "evaluate": "lower evaluate.batch_size",
}
OTHERWISE = "end other programs, or take a machine with more memory or a smaller base.model"
# torch on CPU; on CUDA, ROCm and Apple's GPUs; cuBLAS.
TEXTS = re.compile(r"can't allocate memory|not enough memory|out of memory|_ALLOC_FAILED", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: Python's, numpy's, pyarrow's, torch's on any device, or the system's."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and TEXTS.search(str(error)) is not None


def cure_of(stage: str | None) -> str:
    """Return what to do when the stage had too little memory."""
    return LOWER.get(stage or "", OTHERWISE)
