"""The section `reward_model` of params.yaml: reward models that are trained on pairs of answers."""

from typing import Literal

from pydantic import Field

from .sections import Count, Name
from .supervised_sections import Supervised

TRAINED_HERE = "data/reward_model/"  # what the stage `reward_model` makes, though it may not be there yet


class RewardModel(Supervised):
    """Training of a reward model on pairs, which makes data/reward_model/NAME; a component of type `model` loads it."""

    preferences: Name = Field(description="Name in `preferences` of the pairs to learn from")
    model: str = Field(
        description="Folder of the model to start from: data/base, data/sft/<name> or any other; a language model gets "
        "a head for the reward, a reward model keeps its own",
        min_length=1,
    )
    members: Count = Field(
        description="Models to train, each from a seed of its own, as folders 1, 2, ...: an ensemble for "
        "`ensemble` of a reward component. 1: one model, in the folder itself"
    )
    input: Literal["chat", "concat"] = Field(
        description="What the model reads, as `input` of the reward component: chat: by its own chat template; concat: "
        "the answer after the prompt as the policy would see it"
    )
    margin: bool = Field(
        description="true: a pair's margin, where it has one, is subtracted from its difference of rewards in the "
        "loss; false: pairs count alike"
    )
    centre: bool = Field(
        description="Shift the rewards so that their mean over the training answers is 0, within the head's weights"
    )
