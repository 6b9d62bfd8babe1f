"""One reward model, a member of an ensemble or the only one: trained, merged, centred, written, and asked for rewards."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...compute.machine import Machine
from ...maths.centring import constant_direction
from ...models.acceleration import accelerate_forward, accelerate_policy
from ...models.fresh import fresh_lora
from ...models.loading import backbone_of
from ...models.lora import LoraLinear, add_lora, merge_lora
from ...models.packed import can_pack
from ...observe.counter import Counter
from ...resume.snapshots import Snapshots
from ...settings.reward_model_sections import RewardModel
from ...storage.files import write_json
from ..batches import generator
from ..data import Sampled
from ..supervised.loop import SupervisedLoop
from ..supervised.state import save_state
from .inputs import PairInputs
from .model import HEAD, RewardPolicy, head_of_reward, load_classifier, padding_of
from .pairs import PairTask, texts_of

Curve = list[dict[str, float | None]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """Pairs that a model is asked for the rewards of: their names, and the token ids of their answers."""

    names: list[str]
    inputs: PairInputs

    def texts(self, pad_id: int, packed: bool) -> Sampled:
        """Return the chosen answers, then the rejected ones."""
        return texts_of(self.names * 2, [*self.inputs.chosen, *self.inputs.rejected], pad_id, packed)


@dataclass(frozen=True)
class Member:
    """What came out: the training's curve, the held-out pairs' rewards (2, N), and what centring did.

    shift: what was subtracted from the rewards. spread: the standard deviation, over held-out answers, of what
    subtracting it took from each: 0 where it was the same. mean: of the rewards of the training answers afterwards.
    """

    curve: Curve
    rewards: Floats
    shift: float
    spread: float
    mean: float


class Training:
    """The training of the members of one entry of `reward_model`. section: as errors name it.

    training, heldout: the pairs. margins: of the training pairs, or None.
    """

    def __init__(
        self, settings: RewardModel, section: str, tokenizer: Any, machine: Machine, training: Asked, heldout: Asked,
        margins: list[float] | None,
    ) -> None:  # fmt: skip
        self.settings, self.section, self.tokenizer, self.machine = settings, section, tokenizer, machine
        self.training, self.heldout, self.margins = training, heldout, margins

    def trained(self, number: int, snapshots: Snapshots | None, counter: Counter) -> tuple[RewardPolicy, Curve]:
        """Return member `number`, from 1, and its curve. A finished training is a snapshot too: it is not made twice."""
        s, key = self.settings, ("member", number)
        model, own = load_classifier(Path(s.model), *self.machine, f"params.yaml: {self.section}.model")
        pad_id = padding_of(model, self.tokenizer, self.section)
        head, layers = head_of_reward(model, own, s.seed, *key), {}
        if s.tuning == "lora":
            seed = int(generator(s.seed, *key, "lora").integers(2**63))
            layers = fresh_lora(model, s, seed, kind=RewardPolicy)[0]
            for layer in layers.values():
                layer.dropout.train()
        else:
            backbone_of(model).requires_grad_(True)
        policy = RewardPolicy(model, layers, head)
        accelerate_policy(policy)
        texts = self.training.texts(pad_id, can_pack(model))
        task = PairTask(policy, texts, self.margins, s.microbatch_tokens, pad_id)
        if s.gradient_checkpointing:
            policy.save_memory()
        loop = SupervisedLoop(task, policy.trained(), s, self.section, *self.machine)
        behind = (number - 1) * loop.steps

        def on_step(pairs: int, tokens: int) -> None:
            if not tokens:
                counter.skip(pairs)
                return
            counter.advance(pairs, tokens)
            row = {name: value for name, value in loop.curve[-1].items() if value is not None}
            counter.step(behind + len(loop.curve), row)

        loop.run(key, on_step, snapshots)
        if snapshots is not None:
            save_state(loop, snapshots)
        for layer in layers.values():
            layer.dropout.eval()
        return policy, loop.curve

    def written(self, policy: RewardPolicy, curve: Curve, folder: Path, counter: Counter) -> Member:
        """Write a trained model to `folder`, centred where that is asked for; return what it says of held-out pairs.

        Rewards are those of the very weights that are written, in the machine's dtype.
        """
        s, cpu = self.settings, torch.device("cpu")
        model, _ = load_classifier(Path(s.model), cpu, "auto", f"params.yaml: {self.section}.model")
        pad_id = padding_of(model, self.tokenizer, self.section)
        put_in(policy, model)
        same = (self.machine.device.type, self.machine.dtype) == ("cpu", model.dtype)
        read = model if same else copy.deepcopy(model).to(*self.machine)
        accelerate_forward(read)
        packed = can_pack(read)
        asked = {name: pairs.texts(pad_id, packed) for name, pairs in self._asked().items()}
        hidden = {name: self._hidden(read, texts, pad_id, counter) for name, texts in asked.items()}
        before = rewards_of(model, hidden["heldout"])
        shift, mean = (centre(model, hidden["training"]) if s.centre else (0.0, float("nan")))
        after = rewards_of(model, hidden["heldout"])
        folder.mkdir(exist_ok=True)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / "source.json", {"model": s.model, "input": s.input, "max_tokens": s.max_tokens})
        spread = float(np.std(before - after)) if len(after) else 0.0
        return Member(curve, after.reshape(2, -1), shift, spread, mean)

    def _asked(self) -> dict[str, Asked]:
        return {"heldout": self.heldout} | ({"training": self.training} if self.settings.centre else {})

    @torch.no_grad()
    def _hidden(self, model: Any, texts: Sampled, pad_id: int, counter: Counter) -> NDArray[np.float32]:
        """Return the last hidden state that each text's reward is read from (N, H)."""
        found = np.zeros((len(texts.sample_ids), getattr(model, HEAD).in_features), np.float32)
        policy = RewardPolicy(model, {})
        for part in texts.batches(np.arange(len(found)), self.settings.microbatch_tokens):
            batch = texts.sequences(part, pad_id, model.device)
            found[part] = policy.states(batch).cpu().numpy()
            counter.advance(len(part) / 2, int(texts.total_lengths[part].sum()))
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
        layers = {}
        for path, layer in policy.layers.items():
            layers |= _with_lora(model, path, layer)
        merge_lora(model, layers)


def _with_lora(model: Any, path: str, layer: LoraLinear) -> dict[str, LoraLinear]:
    added = add_lora(model, [path], len(layer.lora_A), 1.0, 0.0)
    added[path].scaling = layer.scaling
    added[path].lora_A.copy_(layer.lora_A)
    added[path].lora_B.copy_(layer.lora_B)
    return added


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
