"""Stage `prompts`: read the prompt set and split it."""

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.prompts.column_kinds import columns_told
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.prompts import PROMPTS, further_columns


def run() -> None:
    """Check the prompts of `prompts.source` and write them as one table."""
    table = read_prompts(load_params().prompts)
    PROMPTS.write(table, Paths().prompts)
    splits = table.column("split").to_pylist()
    further = columns_told({name: table.column(name).to_pylist() for name in further_columns(table)})
    result("prompts", f"{splits.count('train')} to train on, {splits.count('heldout')} held out; columns: {further}")
