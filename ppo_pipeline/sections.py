"""The sections of params.yaml: every setting with its type, range, default-free meaning.

One class per section; a section is named after the stage that it steers. `reward` is in reward_sections.py.
No setting has a hidden default: params.yaml holds them all, so that a reader of that file (and of dvc.lock) sees
what a run did.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A group of settings: unknown names, missing names and other types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True, allow_inf_nan=False)


class Base(Section):
    """Where the base model comes from."""

    model: str = Field(description="Packaged model's name, hub id, local folder, or path of a .gguf file", min_length=1)
    revision: str | None = Field(description="Commit or tag of a hub model; null for its default branch")
    trust_remote_code: bool = Field(description="Run Python code that a hub model brings along")


class Prompts(Section):
    """Which prompts there are, and how they are shown to the model."""

    source: str = Field(description="JSONL, CSV or Parquet file, or a folder of such files", min_length=1)
    system: str | None = Field(description="System prompt put before each conversation that has none; null for none")
    heldout_fraction: UnitInterval = Field(
        description="Share held out of training, where the source has no split column; by hash of the prompt"
    )
    chat_template: Literal["auto", "plain"] = Field(
        description="auto: the model's own chat template, plain text where it has none; plain: always plain text"
    )


class Policy(Section):
    """What is trained."""

    rank: Count = Field(description="LoRA rank r")
    alpha: Positive = Field(description="LoRA alpha: the update is scaled by alpha / rank")
    dropout: float = Field(description="Dropout on LoRA's input; above 0 the first ratio is no longer 1", ge=0, lt=1)
    target_modules: list[str] = Field(
        description="Names of the linear or Conv1D modules that get LoRA; a module matches by the end of its path",
        min_length=1,
    )


class Compute(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto takes cuda, then mps, then cpu")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        description="Number format of the base model; auto takes bf16 where the machine computes it fast"
    )
    threads: int = Field(description="CPU threads; 0 leaves torch's choice. Another number can change rounding", ge=0)


class Rollout(Section):
    """Sampling of responses."""

    prompts_per_round: Count = Field(description="Training prompts sampled in a round")
    samples_per_prompt: Count = Field(description="Responses to each prompt")
    max_prompt_tokens: Count = Field(description="A longer prompt is an error")
    max_new_tokens: Count = Field(description="A response is cut at this length")
    temperature: Positive = Field(description="Logits are divided by it, in sampling and in every logprob")
    batch_size: Count = Field(description="Sequences decoded at a time")


class Reference(Section):
    """The training forward over sampled responses: policy and reference logprobs, values."""

    batch_tokens: Count = Field(description="Tokens of a batch, padding included")


class Advantage(Section):
    """Token rewards, advantages and returns."""

    kl_coef: NonNegative = Field(description="Factor of the KL penalty in the token reward")
    kl_estimator: Literal["k1", "k2", "k3"] = Field(description="KL estimator of the token reward (Schulman 2020)")
    gamma: UnitInterval = Field(description="Discount factor")
    lam: UnitInterval = Field(alias="lambda", description="GAE's lambda")
    bootstrap_truncated: bool = Field(
        description="A response cut by length continues with its value estimate instead of 0"
    )
    whiten_advantages: bool = Field(description="Mean 0 and variance 1 over the round's response tokens")


class Update(Section):
    """The PPO update."""

    lr: Positive = Field(description="Learning rate of LoRA")
    value_lr: Positive = Field(description="Learning rate of the value head")
    adam_beta1: UnitInterval = Field(description="AdamW's beta 1")
    adam_beta2: UnitInterval = Field(description="AdamW's beta 2")
    adam_eps: Positive = Field(description="AdamW's epsilon")
    weight_decay: NonNegative = Field(description="AdamW's decoupled weight decay")
    epochs: Count = Field(description="Passes over the round's samples")
    minibatches: Count = Field(description="Optimizer steps in an epoch")
    microbatch_tokens: Count = Field(description="Tokens of one forward, padding included; changes memory only")
    clip_range: Positive = Field(description="PPO's epsilon: the ratio is clipped to 1 - eps, 1 + eps")
    value_clip_range: Positive | None = Field(description="Clip of the value around its old estimate; null for none")
    value_coef: NonNegative = Field(description="Factor of the value loss")
    entropy_coef: NonNegative = Field(description="Factor of the entropy bonus")
    max_grad_norm: Positive | None = Field(description="Gradient norm is clipped to this; null for none")


class Evaluate(Section):
    """Greedy answers to held-out prompts."""

    max_prompts: int = Field(description="Held-out prompts answered, the first ones; 0 for all", ge=0)
    max_new_tokens: Count = Field(description="An answer is cut at this length")
    batch_size: Count = Field(description="Sequences decoded at a time")
