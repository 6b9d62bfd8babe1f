"""Where a sealed round is kept, and the list of sealed rounds, sealed/rounds.yaml.

Sealing takes a finished round out of the pipeline, so that DVC no longer reads and rewrites its six stages in
dvc.lock with each stage that runs. Of round r001 it makes

- sealed/r001.dvc: data/rounds/r001 as one folder that DVC tracks; the files themselves stay where they are,
- sealed/stages/r001.yaml: its entries of dvc.lock, which say what made it,
- sealed/metrics/r001.json: its stages' metrics, from which `summary` draws the learning curve.

All of them belong into git. A round is sealed once sealed/rounds.yaml lists it; what else is left to do then is done
again by `settle`, as often as it takes (sealing/settle.py).
"""

from pathlib import Path
from typing import Any

from ...settings.params import SEALED, read_map
from ...storage.files import whole_file
from ..rounds_file import flow

FOLDER = SEALED.parent
HEAD = "# Sealed rounds: `ppo-pipeline rounds seal` lists them here, `unseal` takes them back into params.yaml.\n"
EMPTY = HEAD + "{}\n"


def data_folder(name: str) -> Path:
    """Return the folder of a round's artifacts."""
    return Path("data/rounds") / name


def metrics_folder(name: str) -> Path:
    """Return the folder of a round's metrics, a file for each stage."""
    return Path("metrics/stages") / name


def dvc_file(name: str) -> Path:
    """Return the file by which DVC tracks a sealed round's data."""
    return FOLDER / f"{name}.dvc"


def idle_dvc_file(name: str) -> Path:
    """Return the same file under a name that DVC does not read, while the round's stages still count."""
    return FOLDER / f"{name}.dvc.idle"


def stages_file(name: str) -> Path:
    """Return the file with a sealed round's entries of dvc.lock."""
    return FOLDER / "stages" / f"{name}.yaml"


def metrics_file(name: str) -> Path:
    """Return the file with a sealed round's metrics, {stage: {metric: number}}."""
    return FOLDER / "metrics" / f"{name}.json"


def entries() -> dict[str, Any]:
    """Return the sealed rounds as they stood in params.yaml, oldest first."""
    return read_map(SEALED, "rounds") if SEALED.is_file() else {}


def write_entries(rounds: dict[str, Any]) -> None:
    """Write sealed/rounds.yaml, whole or not at all."""
    lines = "".join(f"{name}: {flow(entry)}\n" for name, entry in rounds.items())
    with whole_file(SEALED) as partial:
        partial.write_text(HEAD + lines if rounds else EMPTY, encoding="utf-8")
