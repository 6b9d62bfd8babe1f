"""`python -m benchmarks.ablations FILE.yaml`: variants of params.yaml, each with several seeds, side by side.

FILE.yaml maps a variant's name to the settings that it changes: {low_lr: {update.lr: 0.0001}, committed: {}}. Each run
is a process of its own in a folder of its own; the stages run one after the other within it, without DVC, so that
many short runs share a machine with no start but their own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import chdir, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from ruamel.yaml import YAML

from ppo_pipeline.project.seeds.spread import statistics
from ppo_pipeline.settings.stage_settings import ROUND_STAGES

from .measuring import ROOT, environment, module
from .projects import change, make_folders, rounds

STAGES = tuple(stage for stage in ROUND_STAGES if stage != "evaluate")
SHOWN = {
    "eval/scores": "score", "eval/correct": "correct", "objective/kl": "KL", "policy/approxkl": "approxkl",
    "val/response_length": "tokens",
}  # fmt: skip


@click.command()
@click.argument("variants", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--base", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("data/base"))
@click.option("--params", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=ROOT / "params.yaml")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--rounds", "count", default=20, show_default=True)
@click.option("--evaluate", default="0,4,8,12,16,18,19,20", show_default=True, help="Rounds that are evaluated.")
@click.option("--jobs", default=1, show_default=True, help="Runs at a time.")
@click.option("--only", default="", help="Names of variants, with commas; without it all.")
@click.option("--seconds", default=0, help="No run begins, and none goes on, after so many; 0: no limit.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/ablations"), show_default=True)
def main(
    variants: Path, base: Path, params: Path, seeds: str, count: int, evaluate: str, jobs: int, only: str, seconds: int,
    out: Path,
) -> None:  # fmt: skip
    """Run what has no curve in OUT yet; print a row for each variant."""
    table: dict[str, dict[str, Any]] = YAML(typ="safe").load(variants)
    chosen = {name: table[name] for name in (only.split(",") if only else table)}
    todo = [(name, int(seed)) for seed in seeds.split(",") for name in chosen]
    todo = [(name, seed) for name, seed in todo if len(read_curve(curve_file(out, name, seed))) <= count]
    running: list[subprocess.Popen[bytes]] = []
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    started = time.monotonic()
    while todo or running:
        running = [process for process in running if process.poll() is None]
        late = bool(seconds) and time.monotonic() - started > seconds
        if late:
            for process in running:
                process.kill()
            break
        if todo and len(running) < jobs:
            name, seed = todo.pop(0)
            folder = out / f"{name}-{seed}"
            make_project(folder, base, params, chosen[name] | {"seed": seed}, count)
            command = module("benchmarks.ablations_run", folder, evaluate, curve_file(out, name, seed))
            env = environment() | {"OMP_NUM_THREADS": threads, "PPO_PIPELINE_WARM": "0"}
            with (folder / "log.txt").open("wb") as log:
                running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT))
        else:
            time.sleep(0.2)
    print(markdown(out, list(chosen)))  # of what there is


def curve_file(out: Path, name: str, seed: int) -> Path:
    """Return where a run's numbers by round go."""
    return out / f"{name}-{seed}.json"


def make_project(folder: Path, base: Path, params: Path, settings: dict[str, Any], count: int) -> None:
    """Fill `folder` with settings, prompts and the base model; what a killed run left there goes."""
    if folder.exists():
        shutil.rmtree(folder)
    make_folders(folder)
    (folder / "params.yaml").write_bytes(params.read_bytes())
    (folder / "data/prompts").symlink_to(ROOT / "data/prompts")
    (folder / "data/base").symlink_to(base.resolve())
    change(folder, settings | {"rounds": rounds(count)})


def run(folder: Path, evaluate: set[int], target: Path) -> None:
    """Run the stages of all rounds in this process; write the rounds' metrics and seconds so far after each."""
    with chdir(folder), redirect_stdout(StringIO()):
        for stage in ("settings", "prompts", "init"):
            import_module(f"stages.{stage}").run()
        names = list(YAML(typ="safe").load(Path("params.yaml"))["rounds"])
        curve = []
        for depth, name in enumerate(["r000", *names]):
            stages = STAGES if depth else ()
            curve.append({"round": name, **of_round(name, stages + (("evaluate",) if depth in evaluate else ()))})
            target.write_text(json.dumps(curve))


def of_round(name: str, stages: tuple[str, ...]) -> dict[str, Any]:
    """Run stages of a round; return their metrics, and seconds: of all but the evaluation."""
    found: dict[str, Any] = {"seconds": 0.0}
    for stage in stages:
        started = time.perf_counter()
        import_module(f"stages.{stage}").run(name)
        if stage != "evaluate":
            found["seconds"] += time.perf_counter() - started
        found |= json.loads(Path("metrics/stages", name, f"{stage}.json").read_text())
    return found


def curves_of(out: Path, name: str) -> list[list[dict[str, Any]]]:
    """Return the curves of a variant, one for each seed."""
    return [read_curve(path) for path in sorted(out.glob("*.json")) if path.stem.rpartition("-")[0] == name]


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return a run's rounds so far; none where it has not begun."""
    return json.loads(path.read_text()) if path.is_file() else []


def summary(curves: list[list[dict[str, Any]]], metric: str, last: int = 3) -> tuple[float, float, float]:
    """Return median, lowest and highest over the seeds of a metric's mean over the last rounds that have it."""
    ends = [[row[metric] for row in curve if metric in row][-last:] for curve in curves]
    means = [float(np.mean(end)) for end in ends if end]
    if not means:
        return (float("nan"),) * 3
    found = statistics(means)
    return found["median"], found["min"], found["max"]


def markdown(out: Path, names: list[str]) -> str:
    """Return the table: of each variant the median over seeds (lowest to highest) of means over the last 3 rounds."""
    lines = ["| variant | seeds | " + " | ".join(SHOWN.values()) + " | s a round |", "|---" * (len(SHOWN) + 3) + "|"]
    for name in names:
        curves = curves_of(out, name)
        cells = [name, str(len(curves))]
        for metric in SHOWN:
            middle, low, high = summary(curves, metric)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        seconds = [row["seconds"] for curve in curves for row in curve[2:]]
        lines.append("| " + " | ".join([*cells, f"{np.median(seconds):.1f}" if seconds else ""]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
