"""Where a sealed round is kept, and the list of sealed rounds, sealed/rounds.yaml.

Sealing takes a finished round out of the pipeline, so that DVC no longer reads and rewrites its six stages in
dvc.lock with each stage that runs. Of round r001 it makes

- sealed/r001.dvc: what its stages wrote to data/rounds/r001, with the hashes of dvc.lock, as DVC tracks it: plain YAML;
  files and cache stay as they are,
- sealed/stages/r001.yaml: its entries of dvc.lock, which say what made it,
- sealed/metrics/r001.json: its stages' metrics, from which `summary` draws the learning curve.

All of them belong into git. A round is sealed once sealed/rounds.yaml lists it; what else is left to do then is done
again by `settle`, as often as it takes (sealing/settle.py).
"""

from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...settings.params import SEALED
from ...settings.yaml_file import read_map
from ...storage.files import atomic_file
from ..paths import Paths
from ..rounds_file import flow
from . import lock_text

FOLDER = SEALED.parent
HEAD = "# Sealed rounds: `ppo-pipeline rounds seal` lists them here, `unseal` takes them back into params.yaml.\n"
EMPTY = HEAD + "{}\n"


def data_folder(name: str) -> Path:
    """Return the folder of a round's artifacts."""
    return Paths(name).folder


def metrics_folder(name: str) -> Path:
    """Return the folder of a round's metrics, a file for each stage."""
    return Paths().stage_metrics / name


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
    with atomic_file(SEALED) as partial:
        partial.write_text(HEAD + lines if rounds else EMPTY, encoding="utf-8")


def kept_blocks(name: str) -> dict[str, str]:
    """Return a sealed round's entries of dvc.lock."""
    path = stages_file(name)
    if not path.is_file():
        raise PipelineError(f"{path}: no such file, though {name} is sealed; git has it.")
    return lock_text.split(path.read_bytes().decode("utf-8"))


def round_outs(name: str, blocks: dict[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the outputs that a round's entries of dvc.lock name: its data, and its metrics."""
    data: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    for key, stage in lock_text.parsed(blocks).items():
        for out in stage.get("outs", []):
            if out["path"].startswith(f"{data_folder(name).as_posix()}/"):
                data.append(out)
            elif out["path"].startswith(f"{metrics_folder(name).as_posix()}/"):
                metrics.append(out)
            else:
                raise PipelineError(
                    f"dvc.yaml: {key} writes {out['path']}; a round whose stages write outside of "
                    f"{data_folder(name).as_posix()} and {metrics_folder(name).as_posix()} cannot be sealed."
                )
    return data, metrics
