"""How many bytes a stage needs at its peak, part by part; docs/memory.md says how far from what was measured.

b: bytes of a number in the model's dtype. Every figure is of one process, and of the settings' largest batch.
"""

from dataclasses import dataclass

from .shapes import Shape

STAGES = ("rollout", "reference", "update", "evaluate")
DECODING = ("rollout", "evaluate")
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: a code, an 8-bit scale for 64, an fp32 scale for 256 of those
CHUNK = 256  # rows of logits at a time in the training forward: models/logprobs.py
ROWS = 16  # of them in fp32 at a time on a CPU
PREFILL = 4096  # tokens of prompts that the decoder runs at a time
PROCESS = {"cpu": 0.7e9, "gpu": 0.6e9}  # Python with torch and transformers; a CUDA context and cuBLAS's room


@dataclass(frozen=True)
class Plan:
    """What of the settings memory depends on.

    device: cpu or gpu. bytes: b. native: the CPU kernels of this project run. lora: trained weights of LoRA, 0 where
    the whole model is. layers_with_lora: in a block. four_bit: the frozen base is in NF4. state_bytes: of the
    optimizer, for each trained weight. critics: backbones besides the policy's (0 or 1). longest: tokens of prompt and
    response. slots, capacity: sequences that are decoded at a time, and the tokens of each. truncated: top_k, top_p or
    min_p.
    """

    device: str
    bytes: int = 2
    native: bool = False
    lora: int = 0
    rank: int = 0
    layers_with_lora: int = 0
    four_bit: bool = False
    state_bytes: float = 8.0
    critics: int = 0
    microbatch_tokens: int = 1024
    checkpointing: bool = False
    batch_tokens: int = 4096
    longest: int = 512
    slots: int = 64
    capacity: int = 512
    truncated: bool = False
    head_fp32: bool = False

    def packs(self, stage: str) -> bool:
        """Tell whether a stage lays frozen weights out anew for the CPU's kernels: models/prepacked.py."""
        frozen = stage in DECODING or (self.bytes == 2 and self.lora > 0)
        return self.device == "cpu" and not self.four_bit and frozen


def stage_memory(stage: str, shape: Shape, plan: Plan) -> dict[str, float]:
    """Return the bytes of each part of a stage's peak; their sum is the peak.

    weights: of the model, as it computes with them. file: pages of its file on a CPU, read once, which the system may
    take back. lora, gradients, optimizer: of what is trained. activations: kept for the backward pass. work: the
    largest of what is made and let go, as logits. cache: keys and values. process: what is there without a model.
    """
    found = {"process": PROCESS[plan.device], **_weights(stage, shape, plan)}
    if stage in DECODING:
        found["cache"] = 2 * shape.layers * plan.slots * plan.capacity * shape.kv_heads * shape.head_size * plan.bytes
        found["work"] = _sampling_work(shape, plan)
    elif stage == "reference":
        found["work"] = max(_forward_work(shape, plan, plan.batch_tokens), _logits(shape, plan, plan.batch_tokens))
    else:
        found |= _update(shape, plan)
    if plan.four_bit:
        found["work"] += plan.bytes * max(rows * columns for rows, columns in shape.linear.values())
    if plan.head_fp32 and plan.bytes == 2:
        found["work"] += 4 * shape.vocabulary * shape.hidden
    return found


def host_memory(shape: Shape, plan: Plan) -> float:
    """Return the main memory that a stage on a GPU needs: the process, the file's pages, the parent's moments."""
    moments = plan.state_bytes * (plan.lora or shape.weights * (1 + plan.critics))
    return 2.5e9 + plan.bytes * shape.weights + moments


def trained_weights(shape: Shape, plan: Plan) -> int:
    """Return how many weights are trained, of policy and critic."""
    return plan.lora * (1 + plan.critics) if plan.lora else shape.weights * (1 + plan.critics)


def _weights(stage: str, shape: Shape, plan: Plan) -> dict[str, float]:
    b, linear, other = plan.bytes, shape.linear_weights, shape.other_weights
    found = {"lora": 4.0 * trained_weights(shape, plan) if plan.lora else 0.0, "file": 0.0}
    if plan.four_bit:
        found["weights"] = NF4 * linear + b * other
        found["file"] = float(b * linear) if plan.device == "cpu" else 0.0
    elif plan.packs(stage):
        layouts = 2 if stage == "update" else 1  # the second one for the backward pass
        found["weights"], found["file"] = float(b * (layouts * linear + other)), float(b * linear)
    else:
        critics = plan.critics if stage in ("reference", "update") and not plan.lora else 0
        found["weights"] = float(b * shape.weights * (1 + critics))
    if stage in DECODING and not plan.four_bit:
        found["lora"] = 0.0  # it is merged
        if plan.packs(stage) and shape.tied:  # the head packed beside the embeddings
            found["weights"] += b * shape.vocabulary * shape.hidden
    return found


def _update(shape: Shape, plan: Plan) -> dict[str, float]:
    b, tokens, models = plan.bytes, plan.microbatch_tokens, 1 + plan.critics
    trained = trained_weights(shape, plan)
    kept = tokens * _kept_per_token(shape, plan) + _masks(shape, plan)
    block: float = tokens * b * (shape.ffn + 2 * shape.hidden)  # its gradients; what they were made of goes meanwhile
    activations: float = shape.layers * kept * models
    if plan.checkpointing:  # the blocks' inputs alone; a block's activations are made again, when the head is done
        activations, block = tokens * shape.layers * shape.hidden * b * models, block + kept
    head = _logits(shape, plan, tokens)
    if not plan.lora:  # its gradient: a sum in fp32, and a chunk's product
        head += (4 + b) * shape.vocabulary * shape.hidden
    return {
        "gradients": (4.0 if plan.lora else b) * trained,
        "optimizer": plan.state_bytes * trained,
        "activations": activations + 3 * tokens * b * shape.hidden,
        "work": max(head, block),
    }


def _kept_per_token(shape: Shape, plan: Plan) -> float:
    """Return the bytes that a block keeps of a token for the backward pass.

    Inputs of the linear layers and norms, queries, keys, values and attention's output, the MLP's gate and product.
    torch's operations keep the norms' inputs in fp32, silu's output besides its input, and attention's once more.
    """
    b, h, f = plan.bytes, shape.hidden, shape.ffn
    attention, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    if plan.native:
        return b * (4 * h + 2 * attention + 2 * keys + 3 * f) + 4 * shape.heads + 4 * plan.rank * plan.layers_with_lora
    norms = 8 * h if plan.lora else (8 + 2 * b) * h
    return norms + b * (2 * h + 3 * attention + 2 * keys + 4 * f + plan.rank * plan.layers_with_lora)


def _masks(shape: Shape, plan: Plan) -> float:
    """Return the bytes of a block's attention mask, which torch's operations keep as bool and as numbers."""
    if plan.native:
        return 0.0
    return (1 + plan.bytes) * (shape.heads // shape.kv_heads) * plan.longest**2


def _logits(shape: Shape, plan: Plan, tokens: int) -> float:
    """Return the bytes of a chunk's logits, with their copies in fp32 where torch's operations make some."""
    rows, wide = min(CHUNK, tokens), 4 if plan.head_fp32 else plan.bytes
    copies = 0 if plan.native else 2 * 4 * (min(ROWS, rows) if plan.device == "cpu" else rows)
    return shape.vocabulary * (wide * rows + copies)


def _forward_work(shape: Shape, plan: Plan, tokens: int) -> float:
    """Return the bytes of a block's tensors where none is kept.

    Embeddings, the block's input, residual and normed states, cosines and sines, a norm's copies or the MLP's three.
    """
    b, h = plan.bytes, shape.hidden
    norm = 0 if plan.native else 12 * h
    return tokens * (b * (4 * h + 2 * shape.head_size) + max(norm, 3 * b * shape.ffn))


def _sampling_work(shape: Shape, plan: Plan) -> float:
    """Return the bytes of a prefill or of drawing, whichever are more; drawing sorts where it is truncated."""
    wide = 4 if plan.head_fp32 else plan.bytes
    of_logit = wide + (0 if plan.native and not plan.truncated else 4 * 4) + (20 if plan.truncated else 0)
    prefill = _forward_work(shape, plan, max(PREFILL, plan.longest))
    return max(prefill, of_logit * plan.slots * shape.vocabulary)


def total(parts: dict[str, float]) -> float:
    """Return the peak: the sum of the parts."""
    return sum(parts.values())
