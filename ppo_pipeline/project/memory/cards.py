"""What fits into which GPU: the tables of docs/memory.md."""

from dataclasses import replace

from .needs import STAGES, Plan, stage_memory
from .plan import state_bytes
from .shapes import KNOWN, Shape

CARDS = (8, 16, 24, 48, 80)  # GB
SPARE = 1.1  # for what the allocator cannot use of its blocks
RANK = 16
# bf16, LoRA of rank 16 on all linear layers, 1024 tokens a microbatch, 64 sequences of 256 + 256 tokens decoded.
COMMON = Plan("gpu", rank=RANK, layers_with_lora=7, microbatch_tokens=1024, longest=512, slots=64, capacity=512)
FULL = replace(COMMON, checkpointing=True, rank=0, layers_with_lora=0)
WAYS = {
    "LoRA, base in 4 bits": replace(COMMON, four_bit=True, checkpointing=True),
    "LoRA": replace(COMMON, checkpointing=True),
    "LoRA, no checkpointing": COMMON,
    "all parameters": replace(FULL, state_bytes=state_bytes("adamw", True, 2)),
    "all parameters, 8-bit Adam": replace(FULL, state_bytes=state_bytes("adamw_8bit", True, 2)),
}


def peak(shape: Shape, way: str) -> tuple[float, str]:
    """Return the bytes of the largest stage on a GPU, and which it is."""
    plan = WAYS[way]
    if plan.rank:
        plan = replace(plan, lora=shape.lora_weights(RANK, "all-linear"))
    return max((sum(stage_memory(stage, shape, plan).values()), stage) for stage in STAGES)


def tables() -> str:
    """Return both tables in Markdown: each model's peak, and the largest model for each card."""
    names = [name for name in KNOWN if name.startswith("qwen")]
    head = f"| GB at the peak | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 1)}\n"
    lines = []
    for name in names:
        cells = (f"{found / 1e9:.1f} ({stage})" for found, stage in (peak(KNOWN[name], way) for way in WAYS))
        lines.append(f"| {_title(name)} | {' | '.join(cells)} |\n")
    fits = [f"| fits into | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 1)}\n"]
    for card in CARDS:
        cells = (_largest(names, way, card) for way in WAYS)
        fits.append(f"| {card} GB | {' | '.join(cells)} |\n")
    return head + "".join(lines) + "\n" + "".join(fits)


def _largest(names: list[str], way: str, card: int) -> str:
    fitting = [name for name in names if SPARE * peak(KNOWN[name], way)[0] <= card * 1e9]
    return _title(max(fitting, key=lambda name: KNOWN[name].weights)) if fitting else "none"


def _title(name: str) -> str:
    return name.removeprefix("qwen2.5-").upper()
