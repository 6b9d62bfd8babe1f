"""The dtype that the language-model head computes in: a choice of the process, as its kernels are."""

import torch

_fp32 = False


def choose(fp32: bool) -> None:
    """Say whether this process computes the head in fp32, whatever the model's dtype; from compute.head."""
    global _fp32
    _fp32 = fp32


def in_fp32() -> bool:
    """Tell whether it does."""
    return _fp32


def widens(dtype: torch.dtype) -> bool:
    """Tell whether it computes a model's head in another dtype than the model's."""
    return _fp32 and dtype != torch.float32
