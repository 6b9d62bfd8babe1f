"""Where the repository's own files lie: beside this package in a clone, inside it in an installed wheel.

setup.py puts them there.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def repository_file(name: str) -> Path:
    """Return a file of this repository, such as dvc.yaml or params/notebook-lora.yaml; those in setup.py alone."""
    inside = PACKAGE / "repository"
    return (inside if inside.is_dir() else PACKAGE.parent) / name
