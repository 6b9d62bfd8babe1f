"""Whether vLLM is here, and of a version that this engine fits; vLLM itself is not imported, which takes seconds."""

import re

from ....errors import PipelineError
from ....observe.run_record import VLLM, version_of
from ....settings.params import Params

FITS = r"0\.32\."  # the engine takes part in vLLM's sampler, whose inside changes from one minor version to the next


def require_vllm(setting: str = "engine") -> None:
    """Raise PipelineError, with what to install, where vLLM is missing or of another version; setting: that asks."""
    found = next((found for found in map(version_of, VLLM) if found is not None), None)
    if found is not None and re.match(FITS, found):
        return
    what = "is not installed here" if found is None else f"{found} is installed here, and 0.32 is what fits"
    raise PipelineError(
        f"{setting}: vllm: vLLM {what}; in an environment of its own, `pip install -c constraints-vllm.txt "
        f"'ppo-pipeline[vllm]'` (docs/vllm.md). Or set {setting.removeprefix('params.yaml: ')} to own."
    )


def check_engines(params: Params) -> None:
    """Raise PipelineError where a round asks for vLLM, and it is not here."""
    for name in params.rounds:
        settings = params.of_round(name)
        for stage in ("rollout", "evaluate"):
            if getattr(settings, stage).engine == "vllm":
                require_vllm(f"params.yaml: {stage}.engine")
