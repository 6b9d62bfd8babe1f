"""What a running `dvc repro` has still before it, by dvc.lock alone: DVC itself would need seconds to say so.

DVC writes a stage's entry as the stage ends. So a stage of which a dependency is no longer as its entry has it is still
to run, and so is what reads its outputs. One whose entry fits is done, or DVC restores it.
"""

import re
from pathlib import Path, PurePosixPath

from ...settings.params import Params
from ..paths import Paths
from ..sealing import lock_text
from ..stages import OF_A_ROUND
from .durations import Durations
from .would_be import md5

ENTRY = re.compile(r"^    - path: (\S.*)\n(?:      (?!md5:).*\n)*      md5: (\S+)$", re.MULTILINE)
WRITTEN = tuple(f"{path.as_posix()}/" for path in (Paths().code_folder, Paths().settings_folder, Paths().models))


def stages_left(params: Params, here: str) -> list[str]:
    """Return the stages of other rounds that are still to run, now that round `here` is through: `update@r004`.

    here: empty where no stage is at work.
    """
    entries = {name: _hashes(block) for name, block in lock_text.read().items()}
    now: dict[str, str] = {}
    # Files that no stage writes, such as reward functions, are as this round's stages saw them.
    for stage in OF_A_ROUND[:-1]:  # the last one is still at work, for DVC
        now |= entries.get(f"{stage}@{here}", ({}, {}))[0]
    made = {path: digest for _, outs in entries.values() for path, digest in outs.items()}
    now |= made
    left: list[str] = []
    waiting: set[str] = set()

    def fits(path: str, digest: str) -> bool:
        upwards = {path, *(folder.as_posix() for folder in PurePosixPath(path).parents)}
        if path.startswith(WRITTEN):  # one that is not here, as in a clone, tells nothing
            return not Path(path).is_file() or md5(Path(path).read_text(encoding="utf-8")) == digest
        if upwards & waiting:
            return False
        of = path.removeprefix(f"{Paths().rounds.as_posix()}/").split("/")[0]
        return now.get(path, digest) == digest and (of not in params.rounds or bool(upwards & made.keys()))

    for name in sorted(params.rounds, key=params.depth):
        for stage in OF_A_ROUND if name != here else ():
            deps, outs = entries.get(f"{stage}@{name}", ({}, {}))
            if not deps or not all(fits(path, digest) for path, digest in deps.items()):
                left.append(f"{stage}@{name}")
                waiting |= outs.keys()
    return left


def seconds_left(params: Params, here: str, left: list[str], logs: Path = Path("logs")) -> float | None:
    """Return how long these stages take if each takes as long as that of round `here` did, or the nearest round's.

    None where one of them has no record in logs/.
    """
    durations = Durations(params, logs)
    times = [durations.of(f"{stage.partition('@')[0]}@{here}") for stage in left]
    return None if None in times else _with_dvc(logs / here) * sum(time or 0.0 for time in times)


def _with_dvc(folder: Path) -> float:
    """Return by what factor a round takes longer than its stages' commands: DVC hashes and stores in between.

    1 where these stages did not run one right after the other: after a pause, or where DVC restored some.
    """
    ends = {path.stem: path.stat().st_mtime for path in folder.glob("*.json") if path.stem in OF_A_ROUND}
    times = {stage: Durations.recorded(folder / f"{stage}.json") or 0.0 for stage in ends}
    work = sum(times.values())
    whole = max(ends.values(), default=0.0) - min((ends[stage] - times[stage] for stage in ends), default=0.0)
    return whole / work if 0 < work <= whole <= 2 * work + 60 else 1.0


def _hashes(block: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the hashes of the dependencies and of the outputs that a stage's entry of dvc.lock has, by path."""
    deps, _, outs = block.replace("\r\n", "\n").partition("\n    outs:\n")
    return dict(ENTRY.findall(deps)), dict(ENTRY.findall(outs))
