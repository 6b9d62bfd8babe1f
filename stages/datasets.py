"""Stage `datasets`: fetch a data set of a hub, for prompts, answers to learn from or pairs of answers."""

import pyarrow.parquet as pq

from ppo_pipeline.models.hub_dataset import fetch_dataset
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.prompts.column_kinds import columns_told
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.files import atomic_file
from ppo_pipeline.tables.schema import FORMAT


def run(name: str) -> None:
    """Write the rows of an entry of `datasets` to data/datasets/<name>.parquet."""
    settings = load_params().entry("datasets", name)
    table = fetch_dataset(settings, name)
    with atomic_file(Paths().dataset(name)) as partial:
        pq.write_table(table, partial, **FORMAT)
    columns = columns_told({column: table.column(column).to_pylist() for column in table.column_names})
    result(f"datasets {name}", f"{table.num_rows} rows of {settings.source}; columns: {columns}")
