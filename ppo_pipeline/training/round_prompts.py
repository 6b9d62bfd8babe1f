"""Which prompts a round samples responses to."""

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import PipelineError
from .batches import prompts_of_round


def round_prompts(prompts: pa.Table, wanted: int, depth: int, seed: int) -> pa.Table:
    """Return the rows of `wanted` training prompts for the round that is `depth` rounds from the start.

    Raises PipelineError where there are not so many.
    """
    train = prompts.filter(pc.equal(prompts.column("split"), "train"))
    if wanted > train.num_rows:
        raise PipelineError(
            f"params.yaml: rollout.prompts_per_round: {wanted}, but there are {train.num_rows} training prompts; "
            "lower it, or raise samples_per_prompt."
        )
    return train.take(pa.array(prompts_of_round(train.num_rows, wanted, depth, seed)))
