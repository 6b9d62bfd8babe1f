"""Settings of supervised training, which `sft` and `reward_model` have in common."""

from typing import Literal

from pydantic import Field

from .sections import Below1, Count, NonNegative, Positive, Section, TargetModules


class Supervised(Section):
    """How a model learns from examples. LoRA's settings have no effect where the whole model is trained."""

    seed: int = Field(description="Seed of LoRA's first weights, of dropout and of the examples' order", ge=0)
    tuning: Literal["lora", "full"] = Field(
        description="lora: an adapter, merged into the model that is written; full: all of the model's weights"
    )
    rank: Count = Field(description="LoRA rank r")
    alpha: Positive = Field(description="LoRA alpha: the update is scaled by alpha / rank")
    use_rslora: bool = Field(description="Rank-stabilised LoRA: scaled by alpha / sqrt(rank) instead")
    dropout: Below1 = Field(description="Dropout on LoRA's input")
    target_modules: TargetModules = Field(description="Modules that get LoRA, as in `policy.target_modules`")
    lr: Positive = Field(description="Learning rate")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        description="How the learning rate falls after the warm-up, over the optimizer steps"
    )
    warmup_ratio: Below1 = Field(description="Share of the optimizer steps in which the learning rate rises to `lr`")
    adam_beta1: Below1 = Field(description="AdamW's beta 1")
    adam_beta2: Below1 = Field(description="AdamW's beta 2")
    adam_eps: Positive = Field(description="AdamW's epsilon")
    weight_decay: NonNegative = Field(description="AdamW's decoupled weight decay")
    max_grad_norm: Positive | None = Field(description="Gradient norm is clipped to this; null for none")
    epochs: Count = Field(description="Passes over the training examples")
    batch_size: Count = Field(
        description="Examples of an optimizer step, at most; those of an epoch differ by one example at most"
    )
    microbatch_tokens: Count = Field(description="Tokens of one forward; changes memory and speed only")
    gradient_checkpointing: bool = Field(
        description="Compute activations again in the backward pass instead of keeping them: less memory, more time"
    )
    max_tokens: Count = Field(description="Longest example in tokens, prompt and answer")
    too_long: Literal["error", "skip"] = Field(
        description="A longer example. error: none is trained before all fit; skip: it is left out, and counted"
    )


class Sft(Supervised):
    """Supervised training of the base model on answers, which makes data/sft/NAME; `policy.start` may name that."""

    source: str = Field(
        description="JSONL, JSON, CSV, TSV or Parquet file, or a folder of such files: `messages`, or `prompt` and "
        "`completion`, texts or lists of messages",
        min_length=1,
    )
    heldout_fraction: Below1 = Field(
        description="Share of the rows held out of training, where the source has no split column; by hash of the "
        "prompt. 0: none, and no held-out loss"
    )
