"""One reward model as it is trained: loaded, given LoRA and a head, and taken through the loop."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...models.acceleration import accelerate_policy
from ...models.fresh import fresh_lora
from ...models.loading import backbone_of
from ...models.lora import LoraLinear
from ...observe.counter import Counter
from ...resume.snapshots import Snapshots
from ..batches import generator
from ..supervised.loop import SupervisedLoop
from ..supervised.state import save_state
from ..supervised.tuning import dropout_on, told_of
from .model import RewardPolicy, check_fits, head_of_reward, load_classifier, padding_of
from .pairs import PairTask, texts_of

if TYPE_CHECKING:
    from .training import Training

Curve = list[dict[str, float | None]]


def trained(
    training: "Training", margins: list[float] | None, number: int, snapshots: Snapshots | None, counter: Counter
) -> tuple[RewardPolicy, Curve]:
    """Return member `number`, from 1, and its curve. A finished training is a snapshot too: it is not made twice.

    margins: of the training pairs, or None.
    """
    s, machine, key = training.settings, training.machine, ("member", number)
    model, own = load_classifier(Path(s.model), *machine, f"params.yaml: {training.section}.model")
    largest = max(asked.largest_id() for asked in training.asked.values())
    check_fits(model, s.max_tokens, largest, training.section)
    pad_id = padding_of(model, training.tokenizer, training.section)
    layers: dict[str, LoraLinear] = {}
    head = head_of_reward(model, own, s.seed, *key)
    if s.tuning == "lora":
        seed = int(generator(s.seed, *key, "lora").integers(2**63))
        with told_of(training.section):
            layers = fresh_lora(model, s, seed, kind=RewardPolicy)[0]
    else:
        backbone_of(model).requires_grad_(True)
    policy = RewardPolicy(model, layers, head)
    accelerate_policy(policy)
    task = PairTask(policy, texts_of(training.training, pad_id, model), margins, s.microbatch_tokens, pad_id)
    if s.gradient_checkpointing:
        with told_of(training.section):
            policy.save_memory()
    loop = SupervisedLoop(task, policy.trained(), s, training.section, *machine)
    behind = (number - 1) * loop.steps

    def on_step(pairs: int, tokens: int) -> None:
        if not tokens:
            counter.skip(2 * pairs)
            return
        counter.advance(2 * pairs, tokens)
        row = {name: value for name, value in loop.curve[-1].items() if value is not None}
        counter.step(behind + len(loop.curve), row)

    with dropout_on(policy):
        loop.run(key, on_step, snapshots)
    if snapshots is not None:
        save_state(loop, snapshots)
    return policy, loop.curve
