"""Out of memory: how each library says it. Standard library alone."""

import errno
import re

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
