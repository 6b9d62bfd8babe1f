"""What a model card says of a round's training: settings, learning curve, hashes, the commit."""

from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...project.learning_curve import HELDOUT, TRAINING
from ...project.plan.as_run import lock_entries, metrics_of, settings_of
from ...project.policies import params_of_round
from ...project.seeds.git import git
from ...settings.files import flattened, told
from ...settings.params import ROOT, Params
from ...storage.files import sha256_of

CURVE = {
    "train_score": "training score",
    "kl": "KL to the base",
    "heldout_score": "held-out score",
    "heldout_score_se": "+-",
    "heldout_correct": "right answers",
}
NOT_OF_TRAINING = ("rounds.", "sources.", "evaluate.", "vllm.", "compute.")


def curve_lines(params: Params, name: str) -> list[list[str]]:
    """Return a row of cells per round on the way to `name`, its head first; a column that no round has is left out."""
    columns = {column: metric for metric, column in (TRAINING | HELDOUT).items() if column in CURVE}
    rows = []
    for each in [ROOT, *([] if name == ROOT else params.lineage(name))]:
        numbers = metrics_of(params, each)
        rows.append({"round": each} | {c: f"{numbers[columns[c]]:.3f}" for c in CURVE if columns[c] in numbers})
    kept = [column for column in CURVE if any(column in row for row in rows)]
    return [["round", *(CURVE[c] for c in kept)], *([row["round"], *(row.get(c, "") for c in kept)] for row in rows)]


def settings_lines(params: Params, name: str) -> tuple[list[str], bool]:
    """Return `setting: value` of the training, and whether these are the ones that the round ran with, by dvc.lock.

    Else they are those of params.yaml, as are those of sections that no stage of a round uses, such as `base`.
    """
    try:
        ran = None if name == ROOT else settings_of(params, name)
    except PipelineError:
        ran = None
    today = params if name == ROOT else params_of_round(params, name)
    found = {n: v for n, v in (ran or {}).items() if "." in n or n == "seed"}  # less what stages have of other sections
    sections = {n.partition(".")[0] for n in found}
    now = flattened(today.model_dump(mode="json", by_alias=True))
    shown = {n: v for n, v in now.items() if n.partition(".")[0] not in sections} | found
    kept = {n: v for n, v in shown.items() if not f"{n}.".startswith(NOT_OF_TRAINING)}
    return [f"{n}: {told(for_others(n, v))}" for n, v in kept.items()], bool(ran)


def for_others(name: str, value: Any) -> Any:
    """Return a setting's value for the public: without a service's address, or a folder of this machine."""
    if name.endswith(".url"):
        return "(not shown)"
    absolute = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return f".../{Path(value).name}" if absolute else value


def data_hashes(params: Params) -> list[tuple[str, str]]:
    """Return path and SHA-256 of each file that the model learnt from, and of dvc.lock, which has the hash of all."""
    files = [Path(path) for path in dict.fromkeys([*params.data_files, "data/prompts.parquet", "dvc.lock"])]
    return [(path.as_posix(), sha256_of(path)) for path in files if path.is_file() and not path.is_absolute()]


def policy_hash(params: Params, name: str, average: bool) -> str | None:
    """Return the hash by which DVC knows the round's policy folder, None where dvc.lock has none."""
    try:
        stages = lock_entries(params, name)
    except PipelineError:
        return None
    wanted = f"data/rounds/{name}/{'average' if average else 'policy'}"
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((out.get("md5") for out in outs if out["path"] == wanted), None)


def commit_here() -> dict[str, Any]:
    """Return the project's commit, and whether tracked files differ from it; no commit outside of git."""
    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return {"commit": commit, "edited": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except PipelineError:
        return {"commit": None, "edited": False}
