"""The sections of params.yaml for what is learned from the samples: `advantage` and `update`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .as_before import AsBefore
from .estimators import EstimatorName, lambda_fault, memory_fault, whitening_fault
from .sections import Above1, Below1, BetweenZeroAndOne, Count, NonNegative, Positive, Section, UnitInterval


class Advantage(Section):
    """Token rewards, advantages and returns."""

    estimator: Annotated[EstimatorName, AsBefore("gae")] = Field(description="How advantages are made of token rewards")
    kl_coef: NonNegative = Field(description="Factor of the KL penalty in the reward; adaptive: of the first round")
    kl_estimator: Literal["k1", "k2", "k3"] = Field(description="KL estimator of the reward (Schulman 2020)")
    kl_penalty: Annotated[Literal["token", "sequence_sum", "sequence_mean"], AsBefore("token")] = Field(
        description="Where the KL penalty goes: on each token; or its sum, or mean, over the response on the last one"
    )
    kl_target: Annotated[Positive | None, AsBefore(None)] = Field(
        description="Adaptive kl_coef: it is steered to this KL in nats per response (Ziegler et al. 2019); null: fixed"
    )
    kl_horizon: Annotated[Count, AsBefore(10000)] = Field(
        description="Adaptive kl_coef: samples over which it moves by the relative error"
    )
    missing_eos_penalty: Annotated[NonNegative | None, AsBefore(None)] = Field(
        description="Subtracted from the score of a response that was cut by length; null: nothing"
    )
    missing_eos_score: Annotated[float | None, AsBefore(None)] = Field(
        description="Score that replaces that of a response cut by length; null: none does"
    )
    overlong_buffer: Annotated[Count | None, AsBefore(None)] = Field(
        description="Tokens before rollout.max_new_tokens over which a growing penalty is subtracted from the score "
        "(DAPO's soft overlong punishment); null: none"
    )
    overlong_penalty: Annotated[Positive | None, AsBefore(None)] = Field(
        description="Penalty at rollout.max_new_tokens, 1.0 in DAPO; null where overlong_buffer is null"
    )
    score_scaling: Annotated[Literal["none", "scale", "norm"], AsBefore("none")] = Field(
        description="scale: scores are divided by their running standard deviation over the rounds; norm: their "
        "running mean is subtracted too"
    )
    score_clip: Annotated[Positive | None, AsBefore(None)] = Field(
        description="Scores are clipped to this, after scaling; null: not"
    )
    whiten_rewards: Annotated[Literal["none", "variance", "mean_and_variance"], AsBefore("none")] = Field(
        description="Token rewards over the round: variance 1, the mean kept; or mean 0 and variance 1"
    )
    memory_discount: Annotated[UnitInterval | None, AsBefore(None)] = Field(
        description="prompt_scores.parquet keeps running means of each prompt's rewards and right answers, where what "
        "was before counts by this factor whenever the prompt is sampled again (SPO: 0.875 to 0.96); null: no memory"
    )
    gamma: UnitInterval = Field(description="Discount factor, of an estimator that discounts")
    lam: UnitInterval = Field(alias="lambda", description="GAE's lambda")
    lambda_returns: Annotated[UnitInterval | None, AsBefore(None)] = Field(
        description="Another lambda for the returns, which the value learns: 1.0 in VC-PPO and VAPO; null: `lambda`"
    )
    lambda_alpha: Annotated[Positive | None, AsBefore(None)] = Field(
        description="The advantages' lambda by the response's length l, in place of `lambda`: 1 - 1/(alpha l), or 0 "
        "where that is negative; VAPO has 0.05. Returns keep lambda_returns, or `lambda`. null: `lambda` for all"
    )
    bootstrap: Annotated[Literal["none", "truncated", "always"], AsBefore("none")] = Field(
        description="GAE's value after the last token. none: 0; truncated: the critic's where the response was cut by "
        "length, 0 after its own end; always: the critic's"
    )
    whiten_advantages: Literal["none", "round", "minibatch", "response"] = Field(
        description="Mean 0 and variance 1 over the response tokens of the whole round; of each minibatch, within "
        "`update`; or of each response. Where a minibatch or response has one token, or equal advantages, they become 0"
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "Advantage":
        if self.missing_eos_penalty is not None and self.missing_eos_score is not None:
            raise ValueError("missing_eos_penalty subtracts, missing_eos_score replaces; set one of them to null")
        if (self.overlong_buffer is None) != (self.overlong_penalty is None):
            raise ValueError(
                "overlong_buffer and overlong_penalty go together: set both, such as 20 and 1.0, or both to null"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target multiplies kl_coef, and 0 stays 0; set kl_coef above 0")
        if (text := whitening_fault(self.estimator, self.whiten_advantages)) is not None:
            raise ValueError(text)
        lambdas = {"lam_returns": self.lambda_returns, "lam_alpha": self.lambda_alpha}
        if (text := lambda_fault(self.estimator, lambdas)) is not None:
            raise ValueError(text)
        if (text := memory_fault(self.estimator, self.memory_discount, self.whiten_rewards)) is not None:
            raise ValueError(text)
        return self


LossNormalization = Literal["token_mean", "sequence_mean", "fixed_length"]
CorrectionForm = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask"]


class Update(Section):
    """The PPO update."""

    lr: Positive = Field(description="Learning rate of the policy")
    value_lr: Positive = Field(description="Learning rate of the value head, and of a separate critic")
    lr_schedule: Annotated[Literal["constant", "linear", "cosine"], AsBefore("constant")] = Field(
        description="How both learning rates fall over the rounds; they are constant within a round"
    )
    warmup_rounds: Annotated[int, AsBefore(0)] = Field(
        description="The first w rounds run at 1/(w+1), 2/(w+1), ... of the learning rates", ge=0
    )
    schedule_rounds: Annotated[Count | None, AsBefore(None)] = Field(
        description="Rounds from the start to the end of a linear or cosine schedule; later ones stay at its last value"
    )
    optimizer: Annotated[Literal["adamw", "adamw_8bit"], AsBefore("adamw")] = Field(
        description="adamw_8bit keeps the moments of weights whose rows have 64 numbers or more in 8 bits (Dettmers et "
        "al. 2021): a quarter of their memory and of their files, for steps that are less exact (docs/memory.md)"
    )
    adam_beta1: Below1 = Field(description="AdamW's beta 1")
    adam_beta2: Below1 = Field(description="AdamW's beta 2")
    adam_eps: Positive = Field(description="AdamW's epsilon")
    weight_decay: NonNegative = Field(description="AdamW's decoupled weight decay")
    critic_warmup_rounds: Annotated[int, AsBefore(0)] = Field(
        description="In the first rounds, so many, the critic alone learns, and the policy stays as it is "
        "(VC-PPO, arXiv:2503.01491)",
        ge=0,
    )
    critic_warmup_epochs: Annotated[Count, AsBefore(4)] = Field(
        description="Passes over the round's samples in such a round"
    )
    epochs: Count = Field(description="Passes over the round's samples")
    minibatches: Count = Field(description="Optimizer steps in an epoch")
    microbatch_tokens: Count = Field(description="Tokens of one forward; changes memory and speed only")
    gradient_groups: Annotated[Count, AsBefore(1)] = Field(
        description="Groups that each minibatch is dealt into, for as many workers at most, a power of two; their "
        "gradients are added in a fixed order. Another number can change rounding"
    )
    gradient_checkpointing: Annotated[bool, AsBefore(False)] = Field(
        description="Compute activations again in the backward pass instead of keeping them: less memory, more time"
    )
    policy_loss: Annotated[Literal["ppo", "gspo", "cispo"], AsBefore("ppo")] = Field(
        description="ppo: each token's ratio is clipped; gspo: the response's, its geometric mean; cispo: the ratio is "
        "a clipped weight of the logprob, through which no gradient goes. In use with gspo: clip_range 0.0003, "
        "clip_range_high 0.0004; with cispo: clip_range 1.0 (no lower bound), clip_range_high 4.0"
    )
    clip_range: Positive = Field(description="PPO's epsilon: the ratio is clipped to 1 - eps, 1 + eps")
    clip_range_high: Annotated[Positive | None, AsBefore(None)] = Field(
        description="Another epsilon for the upper side, as in DAPO's clip-higher; null: the same"
    )
    dual_clip: Annotated[Above1 | None, AsBefore(None)] = Field(
        description="Bound of the loss where the advantage A is negative: at most -A times this; null for none"
    )
    loss_normalization: Annotated[LossNormalization, AsBefore("token_mean")] = Field(
        description="The minibatch's loss: mean over its tokens; mean over responses of each one's mean; or sum over "
        "tokens divided by responses times rollout.max_new_tokens"
    )
    mask_truncated: Annotated[bool, AsBefore(False)] = Field(
        description="Responses that were cut by length teach the policy nothing: their tokens enter neither its loss "
        "nor the KL and entropy terms (DAPO's overlong filtering); the value still learns from them"
    )
    target_kl: Annotated[Positive | None, AsBefore(None)] = Field(
        description="The update ends before a step whose minibatch has an approxkl beyond this; null: never"
    )
    rollout_correction: Annotated[CorrectionForm | None, AsBefore(None)] = Field(
        description="Each token's policy loss is weighted by r, its probability in the training forward over that in "
        "sampling, or by the response's, the product. truncate: r is clipped to the bounds; mask: 0 beyond them; "
        "geometric_mask: the token's r, 0 where the response's geometric mean is beyond them; null: no weights"
    )
    rollout_correction_max: Annotated[Above1 | None, AsBefore(None)] = Field(
        description="Upper bound of rollout_correction, null where that is null. In use: 2 or 3, token_mask 5, "
        "geometric_mask 1.002"
    )
    rollout_correction_min: Annotated[BetweenZeroAndOne | None, AsBefore(None)] = Field(
        description="Lower bound of rollout_correction; null: none. In use: token_mask 0.5, geometric_mask 0.999"
    )
    kl_loss_coef: Annotated[NonNegative, AsBefore(0.0)] = Field(
        description="Factor of the KL from the base as a term of the loss; 0: none"
    )
    kl_loss_estimator: Annotated[Literal["k2", "k3"], AsBefore("k3")] = Field(
        description="KL estimator of the loss term; the gradient of k1 is 0 in expectation"
    )
    likelihood_coef: Annotated[NonNegative, AsBefore(0.0)] = Field(
        description="Factor of the negative log likelihood of right answers (reward.correct) as a term of the loss, "
        "0.1 in VAPO; 0: none"
    )
    value_clip_range: Positive | None = Field(description="Clip of the value around its old estimate; null for none")
    value_coef: NonNegative = Field(description="Factor of the value loss")
    entropy_coef: NonNegative = Field(description="Factor of the entropy bonus")
    max_grad_norm: Positive | None = Field(description="Gradient norm is clipped to this; null for none")
    average_rounds: Annotated[Count, AsBefore(1)] = Field(
        description="The mean of the last n rounds' LoRA adapters is kept beside the policy and evaluated too, as "
        "eval_average; training goes on from the policy all the same. 1: none"
    )

    @model_validator(mode="after")
    def _schedule_has_an_end(self) -> "Update":
        if self.lr_schedule != "constant" and self.schedule_rounds is None:
            raise ValueError(f"lr_schedule {self.lr_schedule} needs schedule_rounds")
        if self.schedule_rounds is not None and self.schedule_rounds <= self.warmup_rounds:
            raise ValueError("schedule_rounds must be more than warmup_rounds")
        return self

    @model_validator(mode="after")
    def _dual_clip_is_ppo_s(self) -> "Update":
        if self.dual_clip is not None and self.policy_loss != "ppo":
            raise ValueError(f"dual_clip is part of policy_loss ppo, not of {self.policy_loss}; set it to null")
        return self

    @field_validator("rollout_correction", mode="before")
    @classmethod
    def _correction_is_no_number(cls, value: object) -> object:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise ValueError(
                "a number was the bound of what is called token_truncate now; set rollout_correction: token_truncate "
                f"and rollout_correction_max: {value}"
            )
        return value

    @model_validator(mode="after")
    def _correction_has_its_bounds(self) -> "Update":
        form, high, low = self.rollout_correction, self.rollout_correction_max, self.rollout_correction_min
        if form is None and (high is not None or low is not None):
            raise ValueError(
                "rollout_correction_max and rollout_correction_min need a rollout_correction; set them to null, or it "
                "to one of its forms"
            )
        if form is not None and high is None:
            raise ValueError(f"rollout_correction: {form} needs rollout_correction_max, an upper bound such as 2.0")
        return self

    @field_validator("gradient_groups")
    @classmethod
    def _groups_make_a_tree(cls, groups: int) -> int:
        if groups & (groups - 1):
            raise ValueError(f"{groups} is no power of two; set 1, 2, 4, 8, ...")
        return groups
