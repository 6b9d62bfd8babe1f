"""Which prompts a round samples responses to."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import PipelineError
from ..maths.prompt_choice import drawn_by_weight, informative_weights
from .batches import generator, prompts_of_round


def round_prompts(
    prompts: pa.Table, wanted: int, depth: int, seed: int, choice: str = "shuffle", memory: pa.Table | None = None
) -> pa.Table:
    """Return the rows of `wanted` training prompts for the round that is `depth` rounds from the start.

    choice: rollout.prompt_choice. memory: prompt_scores.parquet of the round before. Raises PipelineError where there
    are not so many.
    """
    train = prompts.filter(pc.equal(prompts.column("split"), "train"))
    if wanted > train.num_rows:
        raise PipelineError(
            f"params.yaml: rollout.prompts_per_round: {wanted}, but there are {train.num_rows} training prompts; "
            "lower it, or raise samples_per_prompt."
        )
    if choice == "shuffle":
        return train.take(pa.array(prompts_of_round(train.num_rows, wanted, depth, seed)))
    assert memory is not None, "an informative choice is made by the memory"
    right, judged = answers_remembered(memory, train.column("prompt_id").to_pylist())
    uniforms = generator(seed, "informative prompts", depth).random(train.num_rows)
    return train.take(pa.array(drawn_by_weight(informative_weights(right, judged), uniforms, wanted)))


def answers_remembered(memory: pa.Table, prompt_ids: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the right and the judged answers to each prompt count (N,), 0 for a prompt that is new."""
    columns = (memory.column(name).to_pylist() for name in ("prompt_id", "right", "judged"))
    known = {prompt_id: numbers for prompt_id, *numbers in zip(*columns, strict=True)}
    right, judged = np.array([known.get(prompt_id, (0.0, 0.0)) for prompt_id in prompt_ids], dtype=np.float64).T
    return right, judged
