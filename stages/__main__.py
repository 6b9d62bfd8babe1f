"""`python -m stages NAME ...`: run a stage, in a warm child where it needs torch and DVC runs it, else here.

`python -m stages.NAME ...` does the same without a warm start. In a wheel this package is ppo_pipeline.stages.
"""

import os
import runpy
import sys
from pathlib import Path

BASE = "data/base"  # as in dvc.yaml
WITH_TORCH = ("init", "rollout", "reference", "update", "evaluate")
OF_A_ROUND = ("settings", "reward", "advantage", "summary")  # without torch, but for rewards by a model


def main() -> None:
    """Dispatch to stages/NAME.py; its options are its own."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("__"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m {__package__} NAME ..., NAME one of {', '.join(names)}")
    try:
        run(sys.argv[1], sys.argv[2:])
    except KeyboardInterrupt:  # while modules are imported; later the stage's own command sees it first
        from ppo_pipeline.project.stage_command import end_interrupted

        end_interrupted()


def run(name: str, arguments: list[str]) -> None:
    """Run the stage, warm or here."""
    if name in WITH_TORCH and wanted():
        from ppo_pipeline.engine.warm.launcher import run_warm

        run_warm(f"{__package__}.{name}", arguments)  # comes back only where the stage did not start
    elif name in OF_A_ROUND and wanted() and Path(BASE).is_dir():
        from ppo_pipeline.engine.warm.launcher import run_if_warm, start_ahead

        like = ["--base", BASE]
        if name == "settings":  # a round begins: a stage with a model is next
            start_ahead(like)
        else:
            run_if_warm(f"{__package__}.{name}", arguments, like)
    sys.argv = ["", *arguments]
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)


def wanted() -> bool:
    """Tell whether to try a warm start: DVC runs this, on Linux, and nobody watches this process from within."""
    if sys.platform != "linux" or "DVC_ROOT" not in os.environ or os.environ.get("PPO_PIPELINE_WARM") == "0":
        return False
    return not sys._xoptions and sys.gettrace() is None and sys.getprofile() is None


if __name__ == "__main__":
    main()
