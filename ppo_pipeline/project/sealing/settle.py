"""Make params.yaml, dvc.lock and the working files agree with sealed/rounds.yaml.

Each step may be taken twice: a sealing that was interrupted is finished by doing all of them again. The sealed
rounds' data becomes known to DVC before their stages go: at no point does `dvc gc` take it for garbage.
"""

from pathlib import Path

from ..learning_curve import sealed_metrics
from ..rounds_file import RoundsFile
from . import lock_text
from .index import dvc_file, entries, idle_dvc_file, metrics_file, metrics_folder, stages_file

PARAMS = Path("params.yaml")


def unsettled() -> list[str]:
    """Return the sealed rounds of which something is still left where open rounds have it."""
    sealed = entries()
    in_lock = {key.rpartition("@")[2] for key in lock_text.read()} if sealed else set()
    in_params = set(RoundsFile(PARAMS, settled=False).rounds)
    return [
        name
        for name in sealed
        if name in in_params or name in in_lock or idle_dvc_file(name).exists() or metrics_folder(name).exists()
    ]


def settle() -> list[str]:
    """Finish the sealing of all rounds that sealed/rounds.yaml lists; return those that needed it."""
    names = unsettled()
    for name in names:
        if idle_dvc_file(name).exists():
            idle_dvc_file(name).replace(dvc_file(name))
    if names:
        params = RoundsFile(PARAMS, settled=False)
        if set(names) & set(params.rounds):
            params.take_out(names)
            params.save()
        lock_text.take_out(names)
    for name in names:
        _remove_metrics(name)
    return names


def sweep() -> list[str]:
    """Remove what an unsealing that was interrupted left of rounds that are open; return those rounds."""
    sealed, swept = entries(), []
    for name in RoundsFile(PARAMS, settled=False).rounds:
        for path in (idle_dvc_file(name), stages_file(name), metrics_file(name)):
            if name not in sealed and path.exists():
                path.unlink()
                swept.append(name)
    return list(dict.fromkeys(swept))


def _remove_metrics(name: str) -> None:
    """Remove the files whose content sealed/metrics has, and the folder where no other file is in it."""
    folder = metrics_folder(name)
    for stage in sealed_metrics(metrics_file(name).parent, name):
        (folder / f"{stage}.json").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
