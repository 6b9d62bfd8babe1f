"""`python -m stages STAGE [NAME]`: run a stage, in a warm child where it needs torch and DVC runs it, else here.

In a wheel this package is ppo_pipeline.stages.
"""

import os
import sys
from importlib import import_module

import click

from ppo_pipeline.observe.progress import check_live
from ppo_pipeline.project.faults import faults_told
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.project.stages import STAGES, Stage

GOES_ON = "no output is half-written. `dvc repro` goes on from here."


@click.command()
@click.argument("name", metavar="STAGE", type=click.Choice(list(STAGES)))
@click.argument("given", metavar="[ROUND|SOURCE|NAME]", required=False)
def main(name: str, given: str | None) -> None:
    """Run a stage: of a round, as in `update r003`, of an entry, as in `sft chat`, or of the project, as in `base`."""
    stage, arguments = STAGES[name], [given] if given else []
    stage.check(given)
    with faults_told(GOES_ON, stage.less_memory):
        check_live()
        if wanted():
            run_elsewhere(stage, [name, *arguments])  # comes back only where the stage did not start
        import_module(f"{__package__}.{name}").run(*arguments)
    if name == "evaluate":
        from ppo_pipeline.project.running import tell_run

        tell_run(*arguments)


def wanted() -> bool:
    """Tell whether to try a warm start: DVC runs this, on Linux, and nobody watches this process from within."""
    if sys.platform != "linux" or "DVC_ROOT" not in os.environ or os.environ.get("PPO_PIPELINE_WARM") == "0":
        return False
    if os.environ.get("PPO_PIPELINE_WARM_START", "").split(" ")[0] == str(os.getpid()):
        return False  # this is such a child
    return not sys._xoptions and sys.gettrace() is None and sys.getprofile() is None


def run_elsewhere(stage: Stage, arguments: list[str]) -> None:
    """Run the stage in a child of the server as its `start` says, and end with it; else return."""
    base = Paths().base
    if stage.start == "cold" or (stage.start != "warm" and not base.is_dir()):
        return
    from ppo_pipeline.engine.warm.launcher import Work, run_if_warm, run_warm, start_ahead

    if stage.start == "ahead":  # a round begins: a stage with a model is next
        start_ahead(base)
    else:
        work = Work(str(__package__), arguments, stage.less_memory)
        (run_warm if stage.start == "warm" else run_if_warm)(work, base)


if __name__ == "__main__":
    main()
