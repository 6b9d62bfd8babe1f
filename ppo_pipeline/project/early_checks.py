"""What can be known to fail before anything costs: each open round's settings beside the prompts that there are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import PipelineError
from ..rewards.scoring import check_prompts
from ..settings.params import ROOT, Params
from ..settings.reward_sections import Reward


def check_rounds(params: Params, prompts: pa.Table) -> None:
    """Raise PipelineError where a round would end before its time, with what is missing or wrong.

    Its training prompts are too few, or a reward of it cannot be had: a column that the prompts lack or that holds no
    answer, a function that cannot be imported or called, a folder of no model, a token that is not set.
    """
    train, heldout = (prompts.filter(pc.equal(prompts.column("split"), split)) for split in ("train", "heldout"))
    checked: set[tuple[object, ...]] = set()
    for name in [ROOT, *params.rounds]:
        settings, own = params.of_round(name), None if name == ROOT else params.rounds[name]
        wanted = settings.rollout.prompts_per_round
        if own is not None and wanted > train.num_rows:
            place = f"rounds.{name}.rollout" if "prompts_per_round" in own.rollout else "rollout"
            raise PipelineError(
                f"params.yaml: {place}.prompts_per_round: {wanted}, but there are {train.num_rows} training prompts; "
                "lower it, or raise samples_per_prompt."
            )
        rows = settings.evaluate.max_prompts or heldout.num_rows
        for split, table in {"train": train, "heldout": heldout.slice(0, rows)}.items():
            key = (settings.reward.model_dump_json(), split, rows)
            if key in checked or (split == "train" and own is None):
                continue
            checked.add(key)
            try:
                check_prompts(_at_hand(params, settings.reward), table)
            except PipelineError as error:
                if own is None or not own.reward:
                    raise
                raise PipelineError(f"params.yaml: rounds.{name}: {error.message}") from error.__cause__


def _at_hand(params: Params, reward: Reward) -> Reward:
    """Return the reward less its models that `sources` watches and that are not here: for these it has a stage.

    One may be still to be trained, or have gone after all that it scored lies in DVC's cache.
    """
    gone = {path for path in params.sources.values() if not Path(path).expanduser().exists()}
    components = [each for each in reward.components if (each.loaded_model() or "") not in gone]
    return reward.model_copy(update={"components": components})
