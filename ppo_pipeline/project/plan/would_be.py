"""What the stages `code` and `settings` would write now, made in memory.

`dvc status` compares a stage with the files that lie there: until `code` and `settings` have run again, it cannot
tell which stages an edit of the code or of params.yaml reruns. These files can.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ...settings.files import differences, flattened, settings_texts, told
from ...settings.params import Params
from ...storage.code_fingerprint import all_fingerprints, stage_fingerprints
from ..local_models import BASE, MODELS, RECORD, SOURCES, model_texts
from ..paths import Paths

CODE, SETTINGS = Paths().code_folder, Paths().settings_folder
NO_FINGERPRINT = ("__init__", "__main__", "code")
NOT_SET = ("round", "depth")  # what a stage is told beside its settings


def code_files() -> dict[str, str]:
    """Return path and text of each file that the stage `code` would write: of the stages here, or as installed."""
    stages = Path("stages").resolve()
    if (stages / "code.py").is_file():
        scripts = [script for script in stages.glob("*.py") if script.stem not in NO_FINGERPRINT]
        found = {script.stem: stage_fingerprints(script, stages.parent) for script in scripts}
    else:
        found = all_fingerprints()
    return {(CODE / f"{stage}.json").as_posix(): _json(found[stage]) for stage in sorted(found)}


def settings_files(params: Params) -> dict[str, str]:
    """Return path and text of each file that the stage `settings` would write."""
    return {(SETTINGS / name / f"{stage}.json").as_posix(): text for name, stage, text in settings_texts(params)}


def model_files(params: Params) -> dict[str, str]:
    """Return path and text of each file of data/models/ that `settings` would write; none where a record is missing."""
    if not all((SOURCES / name / RECORD).is_file() for name in params.sources if name != BASE):
        return {}
    return {(MODELS / name).as_posix(): text for name, text in model_texts(params)}


def md5(text: str) -> str:
    """Return the hash by which DVC knows a file with this text."""
    return hashlib.md5(text.encode("utf-8"), usedforsecurity=False).hexdigest()


def what_changed(path: str, before: str | None, now: str) -> list[str]:
    """Return what differs between two texts of a file of code or settings, one line for each change."""
    of_code = path.startswith(CODE.as_posix())
    if path.startswith(f"{MODELS.as_posix()}/"):
        return ["the files of a local model"]
    if before is None:
        return ["its code" if of_code else "its settings"]
    first, second = json.loads(before), json.loads(now)
    if of_code:
        return [f"{name} edited" for name in differences(first, second)]
    changes = differences(flattened(first), flattened(second))
    return [f"{name} {told(a)} -> {told(b)}" for name, (a, b) in changes.items() if name not in NOT_SET]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"  # as files.write_json
