"""How a round's cost grows: with prompts (32 to 1024, 48 tokens each) and with response length (32 to 512 tokens).

The model is the packaged one's shape with random weights, whose end token comes by chance only: all responses have
full length, so that the lengths asked for are those that are measured.
"""

import tempfile
from pathlib import Path
from typing import Any

from .machine import fast_dtype, limits
from .measuring import ROOT
from .random_base import make_random_base
from .whole_round import SETTINGS, our_round

PROMPTS = (32, 64, 128, 256, 512, 1024)
LENGTHS = (32, 64, 128, 256, 512)
LIMITS = {"bfloat16": "bf16_tflops", "float32": "fp32_tflops"}  # the machine's, by the dtype that rounds take
STAGES = ("rollout", "reference", "update")
PICTURE = ROOT / "docs" / "performance-growth.png"


def run(base: Path, counts: tuple[int, ...] = PROMPTS, lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, Any]]:
    """Return a row for each size, and draw docs/performance-growth.png."""
    machine = limits()
    with tempfile.TemporaryDirectory() as temporary:
        model = make_random_base("smollm2", base, Path(temporary) / "smollm2")
        sizes = [(count, 48) for count in counts] + [(32, length) for length in lengths]
        found = {size: measure(model, *size, float(str(machine[LIMITS[fast_dtype()]]))) for size in sizes}
    draw([found[count, 48] for count in counts], [found[32, length] for length in lengths], machine, PICTURE)
    return list(found.values())


def measure(model: Path, count: int, length: int, tflops: float) -> dict[str, Any]:
    """Return the row of one size: seconds of the stages, tokens a second, and the share of the machine's products."""
    changes = {"rollout.batch_size": min(count, 128), "rollout.max_new_tokens": length,
               "evaluate.max_new_tokens": 8, "evaluate.max_prompts": 4}  # fmt: skip
    ours = our_round(model, count, {**SETTINGS, **changes})
    tokens, stages = count * length, ours["stages"]
    shares = {name: products(model, name, count, length) / 1e12 / stages[name] / tflops for name in STAGES}
    row = {
        "what": f"a round of {count} prompts x {length} tokens",
        "ours": f"{ours['seconds']:.1f} s, {tokens / ours['inside']:.0f} tokens a second of work, {ours['peak_gb']} GB",
        "peer": ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        + f" of the machine's {fast_dtype()} products",
        "figures": {"prompts": count, "length": length, "shares": shares, **ours},
    }
    print(f"{row['what']}: {row['ours']}; {row['peer']}", flush=True)
    return row


def products(model: Path, stage: str, count: int, length: int, prompt: int = 17) -> float:
    """Return the floating-point operations of the matrix products with weights that a stage cannot do without.

    Each token of the backbone costs 2 P a forward pass, P being the weights of the frozen projections, and each
    response token 2 V H in the head. A backward pass that trains LoRA alone costs another forward pass of the backbone,
    and in the head, whose logits are computed again, two. prompt: tokens of a prompt without the part common to all.
    """
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(model)
    size = c.hidden_size // c.num_attention_heads
    attention = c.hidden_size * size * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    layer = attention + 3 * c.hidden_size * c.intermediate_size
    backbone = 2.0 * c.num_hidden_layers * layer * count * (prompt + length)
    head = 2.0 * c.vocab_size * c.hidden_size * count * length
    both = backbone + head
    return {"rollout": both, "reference": 2 * both, "update": 2 * (2 * backbone + 3 * head)}[stage]


Rows = list[dict[str, Any]]


def draw(by_count: Rows, by_length: Rows, machine: dict[str, Any], target: Path) -> None:
    """Draw seconds by stage above and the share of the machine's limit below, over prompts and over length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), sharex="col", layout="constrained")
    columns = (
        (by_count, "prompts", "prompts of 48 response tokens"),
        (by_length, "length", "response tokens of 32 prompts"),
    )
    for (upper, lower), (rows, key, label) in zip(axes.T, columns, strict=True):
        figures = [row["figures"] for row in rows]
        sizes = [f[key] for f in figures]
        for name in STAGES:
            upper.plot(sizes, [f["stages"][name] for f in figures], marker="o", label=name)
            lower.plot(sizes, [100 * f["shares"][name] for f in figures], marker="o", label=name)
        upper.plot(sizes, [f["seconds"] for f in figures], marker="s", color="black", label="whole round by dvc repro")
        upper.set(xscale="log", yscale="log", ylabel="seconds", title=f"Time over {key}")
        lower.set(xscale="log", ylim=(0, 100), xlabel=label, ylabel=f"% of the machine's {fast_dtype()} products")
        lower.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        lower.minorticks_off()
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
        upper.legend()
    figure.suptitle(
        f"A round on {machine['cores']} cores of {machine['cpu']}: {fast_dtype()} products "
        f"{machine[LIMITS[fast_dtype()]]} TFLOP/s, memory {machine['read_gb_per_s']} GB/s",
        fontsize=10,
    )
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
