"""One reward model as it is written: LoRA merged, centred, a plain transformers folder; and asked for its rewards."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...compute import crowd
from ...maths.centring import constant_direction
from ...models.acceleration import accelerate_forward
from ...models.loading import backbone_of
from ...models.merged import merge_trained
from ...observe.counter import Counter
from ...storage.files import write_json
from ..data import Sampled
from .inputs import Asked
from .model import HEAD, RewardPolicy, load_classifier, padding_of
from .pairs import texts_of
from .trained import Curve

if TYPE_CHECKING:
    from .training import Training

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """What came out: the training's curve, the held-out pairs' rewards (2, N), and what centring did.

    epochs: that the curve is of. shift: what was subtracted from the rewards. spread: the standard
    deviation, over held-out answers, of what that took from each: 0 where it was the same. mean: of the rewards of the
    training answers afterwards.
    """

    curve: Curve
    epochs: int
    rewards: Floats
    shift: float
    spread: float
    mean: float

    def last_epoch(self) -> dict[str, float]:
        """Return the means of what the loss says over the last epoch's steps."""
        rows = self.curve[-(len(self.curve) // self.epochs) :]
        return {name: float(np.mean([row[name] for row in rows])) for name in ("loss", "accuracy", "margin")}


def written(training: "Training", policy: RewardPolicy, curve: Curve, folder: Path, counter: Counter) -> Member:
    """Write a trained model to `folder`, centred where that is asked for; return what it says of held-out pairs.

    Rewards are those of the very weights that are written, in the machine's dtype.
    """
    s, machine, tokenizer = training.settings, training.machine, training.tokenizer
    model, _ = load_classifier(Path(s.model), torch.device("cpu"), "auto", f"params.yaml: {training.section}.model")
    pad_id = padding_of(model, tokenizer, training.section)
    put_in(policy, model)
    same = (machine.device.type, machine.dtype) == ("cpu", model.dtype)
    read = RewardPolicy(model if same else copy.deepcopy(model).to(*machine), {})
    accelerate_forward(read.model)

    def hidden_of(asked: Asked) -> NDArray[np.float32]:
        return last_states(read, texts_of(asked, pad_id, read.model), pad_id, s.microbatch_tokens, counter)

    heldout = hidden_of(training.heldout)
    before = rewards_of(model, heldout)
    shift, mean = centre(model, hidden_of(training.training)) if s.centre else (0.0, 0.0)
    after = rewards_of(model, heldout)
    folder.mkdir(exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "source.json", {"model": s.model, "input": s.input, "max_tokens": s.max_tokens})
    spread = float(np.std(before - after)) if len(after) else 0.0
    return Member(curve, s.epochs, after.reshape(2, -1), shift, spread, mean)


@crowd.sharing()
@torch.no_grad()
def last_states(
    policy: RewardPolicy, texts: Sampled, pad_id: int, budget: int, counter: Counter
) -> NDArray[np.float32]:
    """Return the last hidden state that each text's reward is read from (N, H); budget: tokens of a forward."""
    found = np.zeros((len(texts.sample_ids), getattr(policy.model, HEAD).in_features), np.float32)
    for part in texts.batches(np.arange(len(found)), budget):
        batch = texts.sequences(part, pad_id, policy.model.device)
        found[part] = policy.states(batch).cpu().numpy()
        counter.advance(len(part), int(texts.total_lengths[part].sum()))
    return found


def put_in(policy: RewardPolicy, model: Any) -> None:
    """Put what was trained into a model as it was loaded, in that one's dtype: LoRA is merged."""
    named = policy.trained()
    with torch.no_grad():
        getattr(model, HEAD).weight.copy_(named.pop(HEAD))
        if not policy.layers:
            for name, parameter in backbone_of(model).named_parameters():
                parameter.copy_(named[name])
            return
    merge_trained(model, policy.layers)


def rewards_of(model: Any, hidden: NDArray[np.float32]) -> Floats:
    """Return the head's rewards of last hidden states (N, H), in fp64."""
    head = getattr(model, HEAD)
    bias = 0.0 if head.bias is None else head.bias.double().item()
    rewards: Floats = hidden @ head.weight[0].double().numpy() + bias
    return rewards


def centre(model: Any, hidden: NDArray[np.float32]) -> tuple[float, float]:
    """Subtract the mean reward of these last hidden states (N, H) from all rewards; return it, and the mean afterwards.

    By the head's bias, where it has one: exactly. transformers' heads of decoders have none, and what is in no file
    that transformers reads would be lost: there it goes into the weights, along the direction in which the states
    differ least (maths/centring.py).
    """
    head, shift = getattr(model, HEAD), float(rewards_of(model, hidden).mean())
    with torch.no_grad():
        if head.bias is not None:
            head.bias -= shift
        else:
            step = torch.from_numpy(shift * constant_direction(hidden))
            head.weight.copy_(head.weight.double() - step)
    return shift, float(rewards_of(model, hidden).mean())
