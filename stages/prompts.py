"""Stage `prompts`: read the prompt set and split it."""

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.prompts.column_kinds import columns_told
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.prompts import PROMPTS, further_columns

FEW = 100  # with as many the standard error of a share is up to 5 points


def run() -> None:
    """Check the prompts of `prompts.source` and write them as one table."""
    table = read_prompts(load_params().prompts)
    PROMPTS.write(table, Paths().prompts)
    train, heldout = (table.column("split").to_pylist().count(split) for split in ("train", "heldout"))
    further = columns_told({name: table.column(name).to_pylist() for name in further_columns(table)})
    result("prompts", f"{train} to train on, {heldout} held out{uncertainty(heldout)}; columns: {further}")


def uncertainty(heldout: int) -> str:
    """Return what few held-out prompts mean for what they measure: the standard error of a share of one half."""
    if not 0 < heldout < FEW:
        return ""
    return f" (a share of right answers is uncertain by {50 / heldout**0.5:.0f} points)"
