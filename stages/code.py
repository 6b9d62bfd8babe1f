"""Stage `code`: a fingerprint of the code that each stage imports. The other stages depend on their own file."""

from ppo_pipeline.project.paths import Paths
from ppo_pipeline.storage.code_fingerprint import all_fingerprints
from ppo_pipeline.storage.files import atomic_folder, write_json


def run() -> None:
    """Write data/code/<stage>.json, so that an edit reruns the stages that use what was edited, and only those."""
    with atomic_folder(Paths().code_folder) as partial:
        for stage, fingerprints in all_fingerprints().items():
            write_json(partial / f"{stage}.json", fingerprints)
