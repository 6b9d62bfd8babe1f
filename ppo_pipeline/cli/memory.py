"""`ppo-pipeline memory`: what each stage with a model needs at its peak, by the settings in force."""

from typing import Any

import click

from ..project.memory.cards import tables
from ..project.memory.needs import host_memory, stage_memory
from ..project.memory.plan import plans_of
from ..project.memory.shapes import shape_in_force, shape_named
from ..settings.params import load_params
from .printed import heading, json_text, note, print_table

PARTS = ("weights", "lora", "optimizer", "gradients", "activations", "work", "cache", "file", "process")


@click.command()
@click.option("--model", help="A folder with a config.json, or a size such as qwen2.5-7b, in place of base.model.")
@click.option("--cards", is_flag=True, help="What fits into 8 to 80 GB, as docs/memory.md has it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, in bytes.")
def memory(model: str | None, cards: bool, as_json: bool) -> None:
    """Print the memory that each stage needs at its peak, on a GPU and on a CPU, in GB.

    Computed from params.yaml and the model's config.json; nothing is loaded. docs/memory.md says what a part is.
    """
    if cards:
        click.echo(tables(), nl=False)
        return
    params = load_params()
    name, shape = (model, shape_named(model)) if model else shape_in_force(params)
    found: dict[str, Any] = {}
    for device in ("gpu", "cpu"):
        plans = plans_of(params, shape, device)
        found[device] = {stage: stage_memory(stage, shape, plan) for stage, plan in plans.items()}
    host = host_memory(shape, plans_of(params, shape, "gpu")["update"])
    if as_json:
        click.echo(json_text({"model": name, "weights": shape.weights, **found, "gpu_main_memory": host}, indent=2))
        return
    for device, of_stages in found.items():
        heading(f"{name}, {shape.weights / 1e6:,.0f} million weights, on a {device.upper()}: GB at the peak")
        used = [part for part in PARTS if any(parts.get(part) for parts in of_stages.values())]
        rows = [
            [stage, f"{sum(parts.values()) / 1e9:.2f}", *(_gb(parts.get(part, 0.0)) for part in used)]
            for stage, parts in of_stages.items()
        ]
        print_table(["stage", "peak", *used], rows, right=("peak", *used))
        if device == "gpu":
            note(f"and up to {host / 1e9:.1f} GB of the machine's own memory")
    note("with the longest prompts and answers that are allowed; docs/memory.md says how near it comes")


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f}" if number >= 5e6 else "" if not number else "0.00"
