"""What the server imports before it forks: what the stages with a model load, all of it third-party."""

import json
from pathlib import Path

# numpy and pyarrow come first: each starts a thread (OpenBLAS, jemalloc) and takes care of it at a fork. What follows
# must start none, and server.py looks. A name that cannot be imported is passed over: the stage that needs it says so.
THREADED = ("numpy", "pyarrow")
LIBRARIES = (
    "pyarrow.parquet",
    "pyarrow.compute",
    "pyarrow.pandas_compat",  # where pandas is installed, pyarrow imports it at the first table that it makes
    "pydantic.main",
    "click",
    "rich.progress",
    "safetensors.torch",
    "torch",
    "numpy.ctypeslib",  # by torch, at the first tensor from numpy
    "tabulate",
    "tokenizers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_utils",
    "transformers.generation.utils",
)


def modelling(base: Path) -> list[str]:
    """Return the module of the base model's architecture, by its folder's config.json; none without."""
    try:
        kind = json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError, OSError):
        return []
    if not isinstance(kind, str) or not kind.isidentifier():
        return []
    return [f"transformers.models.{kind}.modeling_{kind}"]
