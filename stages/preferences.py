"""Stage `preferences`: read pairs of answers, of which one was preferred, and split them by prompt."""

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.prompts.preferences import read_preferences
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.preferences import PREFERENCES, preference_metrics


def run(name: str) -> None:
    """Check the pairs of `preferences.<name>.source` and write them as one table."""
    params, paths = load_params(), Paths()
    table, ties = read_preferences(params.entry("preferences", name), name, params.prompts.continue_final_message)
    PREFERENCES.write(table, paths.preferences(name))
    numbers = preference_metrics(table) | {"preferences/ties": ties}
    write_json(paths.named_metrics("preferences", name), numbers)
    train, heldout, longer = (numbers[f"preferences/{key}"] for key in ("train", "heldout", "chosen_longer"))
    left_out = f", {ties} ties left out" if ties else ""
    result(
        f"preferences {name}",
        f"{train} pairs to train on, {heldout} held out{left_out}; the chosen answer is the longer one in {longer:.0%}",
    )
