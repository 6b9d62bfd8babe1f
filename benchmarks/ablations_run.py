"""One run of benchmarks.ablations: `python -m benchmarks.ablations_run FOLDER ROUNDS_TO_EVALUATE TARGET`."""

import sys
from pathlib import Path

from .ablations import run

if __name__ == "__main__":
    folder, evaluate, target = sys.argv[1:]
    run(Path(folder).resolve(), {int(depth) for depth in evaluate.split(",") if depth}, Path(target).resolve())
