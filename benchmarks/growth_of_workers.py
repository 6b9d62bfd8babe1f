"""What the model of a round's time (round_time.py) says. Wants the extra `bench`.

For this machine it is fitted to what `python -m benchmarks workers` measured, and held against it. For GPUs every rate
is an assumption that stands below: nothing of it was measured.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from .round_time import POOLED, Lengths, Load, Rates, fitted, stages

GPUS = (1, 8, 64, 512)  # 512: 64 nodes of 8
ROUNDS = ((4096, 32), (32768, 64))  # samples, and samples in a shard
WEIGHT_BYTES = 15.2e9  # 7.6 billion weights in bf16: Qwen2.5-7B's shape
LORA_BYTES = 4 * 40.4e6  # LoRA r 16 on its seven projections, gradients in fp32
ASSUMED = (
    "a model of 7.6 billion weights in bf16, LoRA r 16; prompts of 200 tokens; responses log-normal, median 300, "
    "sigma 0.8, cut at 1,024; 512 held-out prompts; 1 epoch x 8 minibatches, gradient_groups 512; a GPU decodes a step "
    "of a shard in 30 ms, scores 15,000 tokens a second and trains on 4,500; a node reads the model at 1 GB/s, all "
    "nodes together at 20 GB/s; workers are there after 10 s, Ray Train's after 20 s; 40 GB/s between GPUs of a node, "
    "12.5 GB/s between nodes; 10 s a round in the driver"
)


def assumed_load(samples: int, shard: int) -> Load:
    """Return the round that is assumed for GPUs."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Lengths:
        return np.minimum(rng.lognormal(np.log(300), 0.8, count), 1024).astype(np.int64) + 1

    return Load(np.full(samples, 200), drawn(samples), drawn(512), shard, 32768, 1, 8, 512, LORA_BYTES)


def assumed_rates(workers: int) -> Rates:
    """Return what is assumed of GPUs. The workers of a node read the model's file once between them."""
    nodes = -(-workers // 8)
    read = WEIGHT_BYTES / min(1e9, 20e9 / nodes)
    start = dict.fromkeys(POOLED, 10.0) | {"update": 20.0}
    link = 40e9 if workers <= 8 else 12.5e9
    return Rates(0.03, 1 / 15000, 1 / 4500, start, dict.fromkeys(POOLED, read), 10.0, link)


def measured_load(figures: dict[str, Any]) -> Load:
    """Return the round that benchmarks/workers.py ran."""
    s = figures["settings"]
    prompts, responses, heldout = (
        np.array(figures[name], np.int64) for name in ("prompt_tokens", "response_tokens", "heldout_tokens")
    )
    groups, gradient = s["update.gradient_groups"], 4 * 2.44e6  # LoRA r 8 of the packaged model
    return Load(
        prompts, responses, heldout, s["rollout.shard_samples"], s.get("reference.batch_tokens", 4096),
        s["update.epochs"], s["update.minibatches"], groups, gradient,
    )  # fmt: skip


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each number of workers what was measured and what the model says, by stage.

    Of 1 worker everything is fitted, of 2 `crowd` alone, of 4 nothing.
    """
    on_ray = {f["workers"]: f for row in rows if (f := row["figures"])["engine"] == "ray" and not f["running"]}
    load = measured_load(on_ray[1])
    rates = fitted(load, on_ray[1], on_ray.get(2))
    found = []
    for workers, figures in sorted(on_ray.items()):
        measured = {name: figures["stages"][name] for name in POOLED}
        measured["driver"] = figures["seconds"] - sum(measured.values())
        found.append({"workers": workers, "measured": measured, "model": stages(load, rates, workers)})
        found[-1]["alone"] = stages(load, replace(rates, crowd=1.0), workers)
    return found


def on_gpus() -> list[dict[str, Any]]:
    """Return what the model says for GPUs, by the size of a round and the number of workers."""
    return [
        {"round": (samples, shard), "workers": n, "model": stages(assumed_load(samples, shard), assumed_rates(n), n)}
        for samples, shard in ROUNDS
        for n in GPUS
    ]


def table_of_gpus(rows: list[dict[str, Any]]) -> str:
    """Return the table for GPUs in Markdown; speed: against one GPU."""
    lines = ["| samples, shard | GPUs | rollout | reference | update | evaluate | round | speed | of ideal |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    one = {row["round"]: sum(row["model"].values()) for row in rows if row["workers"] == 1}
    for row in rows:
        model, total = row["model"], sum(row["model"].values())
        speed = one[row["round"]] / total
        cells = ["{:,}, {}".format(*row["round"]), row["workers"], *(f"{model[name]:,.0f} s" for name in POOLED)]
        cells += [f"{total:,.0f} s", f"{speed:.1f}", f"{speed / row['workers']:.0%}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def table_of_machine(rows: list[dict[str, Any]]) -> str:
    """Return the table for this machine in Markdown: model, and measured in brackets."""
    names = (*POOLED, "driver")
    lines = [f"| workers | {' | '.join(names)} | round | if each had a machine |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        cells = [f"{row['model'][name]:.1f} s ({row['measured'][name]:.1f})" for name in names]
        totals = [sum(row[which].values()) for which in ("model", "measured", "alone")]
        cells += [f"{totals[0]:.1f} s ({totals[1]:.1f})", f"{totals[2]:.1f} s"]
        lines.append(f"| {row['workers']} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--json", "source", type=click.Path(path_type=Path), default=Path("benchmarks/results/workers.json"),
              show_default=True, help="What `python -m benchmarks workers` wrote, if there.")  # fmt: skip
@click.option("--png", "target", type=click.Path(path_type=Path), default=Path("docs/cluster-growth.png"),
              show_default=True)  # fmt: skip
def main(source: Path, target: Path) -> None:
    """Print the model's tables and draw them."""
    machine = compared(json.loads(source.read_text(encoding="utf-8"))["rows"]) if source.is_file() else []
    gpus = on_gpus()
    if machine:
        click.echo(f"this machine, model (measured):\n{table_of_machine(machine)}\n")
    click.echo(f"a model, not a measurement: {ASSUMED}\n{table_of_gpus(gpus)}")
    draw(machine, gpus, target)
    click.echo(f"written to {target}")


def draw(machine: list[dict[str, Any]], gpus: list[dict[str, Any]], target: Path) -> None:
    """Draw the round's time over GPUs, and, where there is something measured, over the workers of this machine."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 1 + bool(machine), figsize=(6 + 5 * bool(machine), 4.2), layout="constrained")
    right, *left = [panels] if not machine else [panels[1], panels[0]]
    for samples, shard in ROUNDS:
        rows = [row for row in gpus if row["round"] == (samples, shard)]
        seconds = [sum(row["model"].values()) for row in rows]
        (line,) = right.plot(GPUS, seconds, marker="o", label=f"{samples:,} samples in shards of {shard}")
        right.plot(GPUS, [seconds[0] / n for n in GPUS], ls=":", color=line.get_color(), label="the same, ideal")
    right.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds of a round",
              title="Model for a 7B model, every rate assumed")  # fmt: skip
    right.set_xticks(GPUS, [str(n) for n in GPUS], minor=False)
    for axis in left:
        workers = [row["workers"] for row in machine]
        for which, style in (("model", "s--"), ("measured", "o-"), ("alone", "^:")):
            label = "model, if each worker had a machine" if which == "alone" else which
            axis.plot(workers, [sum(row[which].values()) for row in machine], style, label=label)
        axis.set(xlabel="workers of one thread", ylabel="seconds of a round", title="This machine", ylim=(0, None))
        axis.set_xticks(workers)
    for axis in (right, *left):
        axis.grid(alpha=0.3)
        axis.minorticks_off()
        axis.legend(fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
