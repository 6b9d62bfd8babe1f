"""A round stage by stage: in one process, and by workers on Ray with the same settings, and so with the same bits.

Every case has a fresh project and a Ray of its own; the last one finds a Ray that runs already, on this machine.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ppo_pipeline.engine.warm.launcher import IDLE_SECONDS
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import lengths

from .measuring import measured
from .projects import REPRO, change, make_project, rounds

COUNT, HELDOUT = 128, 32
SETTINGS = {
    "rollout.max_new_tokens": 48, "evaluate.max_new_tokens": 48, "update.epochs": 2, "update.minibatches": 4,
    "compute.dtype": "bf16", "rollout.shard_samples": 16, "evaluate.shard_samples": 16, "update.gradient_groups": 2,
}  # fmt: skip
STAGES = ("rollout", "reward", "reference", "advantage", "update", "evaluate")


class Case(NamedTuple):
    """running: by a Ray that runs before the round begins."""

    engine: str
    workers: int
    threads: int
    running: bool = False

    def __str__(self) -> str:
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        if self.engine == "local":
            return f"one process, {threads}"
        workers = f"{self.workers} worker" + "s" * (self.workers > 1)
        return f"Ray{' that runs already' * self.running}, {workers} of {threads}"


def cases(cores: int) -> list[Case]:
    """Return what to measure; four workers only where each has a core."""
    found = [Case("local", 1, 2), Case("local", 1, 1), Case("ray", 1, 1), Case("ray", 2, 1)]
    found += [Case("ray", 4, 1)] if cores >= 4 else []
    return [*found, Case("ray", 2, 1, running=True)]


def run(base: Path, count: int = COUNT, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return a row for each case; print them as a table of stages in Markdown."""
    rows: list[dict[str, Any]] = []
    hashes: dict[int, dict[str, str]] = {}  # of the first case with so many threads
    for case in cases(os.cpu_count() or 1):
        found = measure(base, case, count, {**SETTINGS, **(settings or {})})
        own = found.pop("hashes")
        first = hashes.setdefault(case.threads, own)
        found["differing"] = sorted(name for name in first | own if first.get(name) != own.get(name))
        same = "the first with so many threads" if own is first else f"{len(found['differing'])} files differ"
        seconds = ", ".join(f"{name} {s:.1f}" for name, s in found["stages"].items())
        rows.append(
            {
                "what": f"a round of {count} prompts, {case}: seconds",
                "ours": f"{found['seconds']:.1f}: {seconds}",
                "peer": same,
                "figures": {**case._asdict(), **found},
            }
        )
        print(f"{rows[-1]['what']} {rows[-1]['ours']}; {same}", flush=True)
    print(table(rows))
    return rows


def measure(base: Path, case: Case, count: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return seconds of a first round by stage, what the workers told, hashes of its files, and lengths of its samples.

    Base, prompts and the untrained policy with its baseline are there before.
    """
    compute = {"compute.engine": case.engine, "compute.workers": case.workers, "compute.threads": case.threads}
    with tempfile.TemporaryDirectory() as temporary, ray_for(case):
        folder = make_project(Path(temporary) / "project", base, count, HELDOUT)
        change(folder, {**settings, **compute, "rounds": rounds(1)})
        measured([*REPRO, "baseline"], folder)
        time.sleep(IDLE_SECONDS + 2)  # the server of warm starts is gone: the measured round pays for its start
        found = measured(REPRO, folder)
        records = {stage: json.loads((folder / f"logs/r001/{stage}.json").read_text()) for stage in STAGES}
        found["stages"] = {stage: record["seconds"] for stage, record in records.items()}
        found["ready"] = {stage: r["ready_seconds"] for stage, r in records.items() if "ready_seconds" in r}
        found["workers_told"] = {stage: r["workers"] for stage, r in records.items() if "workers" in r}
        made = folder / "data/rounds/r001"
        files = [path for path in (*made.rglob("*"), *(folder / "metrics/stages/r001").glob("*")) if path.is_file()]
        found["hashes"] = {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        rollouts = ROLLOUTS.read(made / "rollouts.parquet", ["prompt_ids", "response_ids"])
        found["prompt_tokens"] = lengths(rollouts, "prompt_ids").tolist()
        found["response_tokens"] = lengths(rollouts, "response_ids").tolist()
        answers = EVALUATION.read(made / "eval.parquet", ["response_ids"])
        found["heldout_tokens"] = lengths(answers, "response_ids").tolist()
        found["settings"] = settings
    return found


@contextmanager
def ray_for(case: Case) -> Iterator[None]:
    """Have the stages join the Ray that is started here for a `running` case; else no Ray that runs on this machine."""
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = "local"
    cluster = None
    if case.running:
        from ppo_pipeline.engine.ray_engine.start import prepare

        prepare()
        from ray.cluster_utils import Cluster

        cores = max(os.cpu_count() or 1, case.workers * case.threads)
        head = {"num_cpus": cores, "object_store_memory": 200 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield
    finally:
        if cluster is not None:
            cluster.shutdown()
        os.environ.pop("RAY_ADDRESS")
        os.environ |= {} if before is None else {"RAY_ADDRESS": before}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows side by side: seconds of each stage, and for workers Ray's start, tokens/s and idle seconds."""
    figures = [row["figures"] for row in rows]
    lines = [["", *(str(Case(*(f[name] for name in Case._fields))) for f in figures)], ["---"] * (len(rows) + 1)]
    for stage in STAGES:
        lines.append([stage, *(f"{f['stages'][stage]:.1f} s" for f in figures)])
        if any(stage in f["ready"] for f in figures):
            lines.append([f"{stage}: until Ray's workers are there", *(_ready(f, stage) for f in figures)])
        told = [_workers(f, stage) for f in figures]  # nothing of update: Ray Train's workers do not count
        lines += [[f"{stage}: tokens/s (idle) of each", *told]] if any(told) else []
    lines.append(["the whole round by `dvc repro`", *(f"{f['seconds']:.1f} s" for f in figures)])
    lines.append(["files that differ at so many threads", *(str(len(f["differing"])) for f in figures)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _ready(figures: dict[str, Any], stage: str) -> str:
    return f"{figures['ready'][stage]:.1f} s" if stage in figures["ready"] else ""


def _workers(figures: dict[str, Any], stage: str) -> str:
    told = [worker for worker in figures["workers_told"].get(stage, ()) if "busy_seconds" in worker]
    return ", ".join(f"{w['tokens_per_second']:.0f} ({w['idle_seconds']:.1f} s)" for w in told)
