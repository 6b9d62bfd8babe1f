"""`python -m benchmarks [NAME ...]`: run benchmarks, print one table, write JSON."""

import importlib
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from .decoder import VLLM
from .machine import limits

NAMES = ("decoder", "whole_round", "notebooks")
SLOW = ("rounds", "growth", "flips", "invariant", "workers", "bf16", "busy", "prefix", "gpu")  # only by name


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES + SLOW))
@click.option("--base", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("data/base"),
              show_default=True, help="The packaged model's folder; `dvc repro base` makes it.")  # fmt: skip
@click.option("--json", "target", type=click.Path(path_type=Path), default=Path("benchmarks/results/latest.json"),
              show_default=True)  # fmt: skip
@click.option("--vllm", type=click.Path(path_type=Path), default=VLLM, show_default=True, envvar="BENCH_VLLM",
              show_envvar=True, help="The interpreter that has vLLM; `make vllm` makes it.")  # fmt: skip
@click.option("--policy", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Of bf16: a round's policy folder; a random LoRA unless given.")  # fmt: skip
def main(names: tuple[str, ...], base: Path, target: Path, vllm: Path, policy: Path | None) -> None:
    """Run the benchmarks named, one after the other, beside their peers; without a name all but the slow ones."""
    machine = limits()
    rows: list[dict[str, Any]] = []
    for name in names or NAMES:
        more: dict[str, Any] = {"decoder": {"vllm": vllm}, "bf16": {"policy": policy}}.get(name, {})
        rows += importlib.import_module(f"benchmarks.{name}").run(base, **more)
        target.parent.mkdir(parents=True, exist_ok=True)  # after each, so that a break loses one benchmark only
        target.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    table = Table(title=", ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    for column in ("what", "ours", "peer", "ratio", "target"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in ("what", "ours", "peer", "ratio", "target")))
    Console().print(table)
    click.echo(f"written to {target}")


if __name__ == "__main__":
    main()
