"""Seal finished rounds: see sealing/index.py for what that makes of them."""

import json
from pathlib import Path
from typing import Any

from ...errors import PipelineError, nearest
from ...settings.params import Params, load_params
from ...storage.files import atomic_file, write_json
from ..rounds_file import RoundsFile, flow
from ..stages import OF_A_NAME
from . import lock_text
from .index import entries, idle_dvc_file, metrics_file, round_outs, stages_file, write_entries
from .main_line import refuse_another_main_line
from .settle import PARAMS, settle
from .tracked import Tracked, dvc_project

UNREAD = ("summary", "baseline")  # no round reads what these stages write


def seal(keep: int | None = None, through: str | None = None) -> list[str]:
    """Seal all open rounds but the last `keep`, or `through` and the rounds that lead to it; return their names.

    An interrupted sealing is finished first; its rounds are among those returned. Raises PipelineError where one of
    the rounds is unfinished or outdated; then none is sealed.
    """
    with dvc_project() as dvc:
        finished = settle()
        params = load_params(PARAMS)
        names = chosen(params, keep, through)
        if not names:
            return finished
        sealed = [name for name in params.all_rounds if name not in params.rounds]
        refuse_another_main_line(params, [*sealed, *names, *(name for name in params.rounds if name not in names)])
        _refuse_outdated(dvc, names)
        blocks = lock_text.read()
        for name in names:
            _write_round(name, lock_text.of_round(blocks, name))
        rounds = RoundsFile(PARAMS).rounds
        write_entries({**entries(), **{name: rounds[name] for name in names}})
        return finished + settle()


def chosen(params: Params, keep: int | None, through: str | None) -> list[str]:
    """Return the open rounds to be sealed, oldest first.

    A sealed round is never computed again; so what it starts from must be sealed too. Of a round that is kept open
    and stands before its children in the map, none of the children is sealed.
    """
    if through is not None:
        if through not in params.all_rounds:
            raise PipelineError(f"params.yaml: no round '{through}'.{nearest(through, list(params.all_rounds))}")
        wanted = set(params.lineage(through))
    else:
        names = list(params.rounds)
        wanted = set(names[: max(0, len(names) - (keep or 0))])
    kept = set(params.rounds) - wanted
    return [name for name in params.rounds if name in wanted and not kept & set(params.lineage(name))]


def _refuse_outdated(dvc: Tracked, names: list[str]) -> None:
    """Raise PipelineError where a stage of the rounds, or one that they all start from, would run again."""
    for key, changes in dvc.outdated().items():
        stage, at, name = key.partition("@")
        of_a_round = at and stage not in OF_A_NAME
        if of_a_round and name in names:
            raise PipelineError(
                f"{name} cannot be sealed: its stage {stage} is unfinished or outdated ({changes}). `dvc repro {key}` "
                "brings it up to date. Nothing was sealed."
            )
        gone = stage == "source" and changes.endswith(" deleted")  # a model that is not on this machine
        if not of_a_round and key not in UNREAD and not gone:
            raise PipelineError(
                f"Stage {key} is outdated ({changes}), so that rounds may be too; `dvc repro` brings it up to date. "
                "Nothing was sealed."
            )


def _write_round(name: str, blocks: dict[str, str]) -> None:
    """Write a round's files under sealed/; DVC sees none of them yet."""
    if not blocks:
        raise PipelineError(f"{lock_text.LOCK}: no stage of {name}; `dvc repro` runs it. Nothing was sealed.")
    data, metrics = round_outs(name, blocks)
    write_json(metrics_file(name), {Path(out["path"]).stem: _metrics_of(Path(out["path"])) for out in metrics})
    with atomic_file(stages_file(name)) as partial:
        partial.write_bytes((lock_text.HEAD + "".join(blocks.values())).encode("utf-8"))
    with atomic_file(idle_dvc_file(name)) as partial:
        partial.write_text("wdir: ..\nouts:\n" + "".join(f"- {flow(out)}\n" for out in data), encoding="utf-8")


def _metrics_of(file: Path) -> Any:
    """Return a stage's metrics, checked to give the same bytes when they are written again."""
    text = file.read_text(encoding="utf-8")
    values = json.loads(text)
    if json.dumps(values, indent=2, ensure_ascii=False) + "\n" != text:
        raise PipelineError(f"{file}: not as the pipeline's stages write it; `dvc repro -f` its stage.")
    return values
