"""The settings of params.yaml as plans of memory, one for each stage with a model."""

from ...settings.params import Params
from .needs import STAGES, Plan
from .shapes import Shape

SPLIT_STATES = 10.0  # bytes a weight: two moments in fp32 and the lower half of a bf16 weight; split_adamw.py
STATES = 8.0
EIGHT_BITS = 2 * (1 + 4 / 256)  # two codes, and an fp32 scale for 256 of each; eight_bit.py


def state_bytes(optimizer: str, full: bool, size: int) -> float:
    """Return the optimizer's bytes for each trained weight; of LoRA as in fp32: below rank 64 B's moments are."""
    moments = EIGHT_BITS if full and optimizer == "adamw_8bit" else STATES
    return moments + (SPLIT_STATES - STATES if full and size == 2 else 0)


def plans_of(params: Params, shape: Shape, device: str) -> dict[str, Plan]:
    """Return each stage's plan on `device` (cpu or gpu); where dtype is auto, for a machine with fast bf16."""
    policy, update, rollout = params.policy, params.update, params.rollout
    size = 4 if params.compute.dtype == "fp32" else 2
    full = policy.tuning == "full"
    common = {
        "device": device,
        "bytes": size,
        "native": device == "cpu" and params.compute.kernels == "auto",
        "lora": 0 if full else shape.lora_weights(policy.rank, policy.target_modules),
        "rank": 0 if full else policy.rank,
        "layers_with_lora": 0 if full else len(shape.targeted(policy.target_modules)),
        "four_bit": policy.quantization is not None,
        "state_bytes": state_bytes(update.optimizer, full, size),
        "critics": int(policy.critic == "separate"),
        "microbatch_tokens": update.microbatch_tokens,
        "checkpointing": update.gradient_checkpointing,
        "batch_tokens": params.reference.batch_tokens,
        "longest": rollout.max_prompt_tokens + rollout.max_new_tokens,
        "truncated": (rollout.top_k, rollout.top_p, rollout.min_p) != (None, None, None),
        "head_fp32": params.compute.head == "fp32",
    }
    plans = {}
    for stage in STAGES:
        asked = params.evaluate if stage == "evaluate" else rollout
        slots = asked.batch_size if stage == "evaluate" else min(asked.batch_size, params.samples)
        plans[stage] = Plan(**common, slots=slots, capacity=rollout.max_prompt_tokens + asked.max_new_tokens)  # type: ignore[arg-type]
    return plans
