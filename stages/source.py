"""Stage `source`: the hashes of a local model's files, taken where DVC finds that something changed there."""

from pathlib import Path

from ppo_pipeline.errors import PipelineError, nearest
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.local_models import write_record
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.settings.params import load_params


def run(name: str) -> None:
    """Write data/sources/<name>/files.json: SHA-256 by file."""
    sources = load_params().sources
    if name not in sources:
        raise PipelineError(f"params.yaml: sources: no '{name}'.{nearest(name, list(sources))}")
    count = write_record(Paths().source(name), Path(sources[name]))
    result("source", f"{name}, {count} files in {sources[name]}")
