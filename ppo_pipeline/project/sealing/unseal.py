"""Unseal rounds: their stages are in the pipeline again, up to date as they were."""

from pathlib import Path
from typing import Any

from ...errors import PipelineError, nearest
from ...settings.params import load_params
from ...storage.files import write_json
from ..learning_curve import sealed_metrics
from ..rounds_file import RoundsFile
from . import lock_text
from .index import data_folder, dvc_file, entries, idle_dvc_file, kept_blocks, metrics_file, round_outs, write_entries
from .main_line import refuse_another_main_line
from .settle import PARAMS, sweep
from .tracked import Tracked, dvc_project


def unseal(name: str) -> list[str]:
    """Take a round and the sealed rounds that descend from it back into the pipeline; return their names.

    The descendants come too, since they are outdated as soon as the round changes. A round that was half unsealed
    is unsealed by calling this again.
    """
    with dvc_project() as dvc:
        sealed = entries()
        if name in sweep():
            return [name]
        if name not in sealed:
            raise PipelineError(f"{name} is not sealed.{nearest(name, list(sealed))}")
        names = with_descendants(name, sealed)
        params = load_params(PARAMS, settled=False)
        again = [each for each in names if each not in params.rounds]
        refuse_another_main_line(params, [*(each for each in sealed if each not in names), *again, *params.rounds])
        blocks: dict[str, str] = {}
        for each in names:
            blocks |= _restore(dvc, each)
        # The stages come back before DVC forgets the folders, so that the data is known to it at every point.
        file = RoundsFile(PARAMS, settled=False)
        file.put_first({each: sealed[each] for each in names if each not in file.rounds})
        file.save()
        lock_text.put_back(blocks)
        for each in names:
            if dvc_file(each).exists():
                dvc_file(each).replace(idle_dvc_file(each))
        write_entries({each: entry for each, entry in sealed.items() if each not in names})
        sweep()
        return names


def with_descendants(name: str, sealed: dict[str, Any]) -> list[str]:
    """Return the round and the sealed ones that descend from it, in the order of sealed/rounds.yaml."""
    found = {name}
    for _ in sealed:  # entries may stand before their parents
        more = {child for child, entry in sealed.items() if entry["parent"] in found}
        if more <= found:
            break
        found |= more
    return [each for each in sealed if each in found]


def _restore(dvc: Tracked, name: str) -> dict[str, str]:
    """Write the metrics of a round's stages and put them into DVC's cache; return its entries of dvc.lock."""
    tracking = [path for path in (dvc_file(name), idle_dvc_file(name)) if path.is_file()]
    if not tracking:
        raise PipelineError(f"{dvc_file(name)}: no such file, though {name} is sealed; git has it.")
    if f"path: {data_folder(name).as_posix()}\n" in tracking[0].read_text(encoding="utf-8"):
        raise PipelineError(
            f"{tracking[0]}: sealed by an earlier version, as one folder; unseal it with that version, then seal again."
        )
    blocks = kept_blocks(name)
    values = sealed_metrics(metrics_file(name).parent, name)
    for out in round_outs(name, blocks)[1]:
        file = Path(out["path"])
        write_json(file, values[file.stem])
        dvc.keep_file(file, out["md5"])  # `dvc gc` may have removed it
    return blocks
