"""Try every causal language model type of the installed transformers, tiny, and write docs/architectures.md.

    python scripts/architectures.py                  # all of them, a process each; `make architectures`
    python scripts/architectures.py llama gpt_neo    # some, without writing

Each is built with random weights and goes through a round of the real stages; what it samples, its first ratio and
its adapter are compared with plain transformers and PEFT. No type may end wrong or with a traceback.
"""

import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CI"] = "true"  # no progress bars
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the stages

import click
import torch
import transformers
from architecture_round import Outcome, try_architecture, warm_up
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TARGET = Path(__file__).resolve().parent.parent / "docs/architectures.md"
SECONDS, BYTES = 240, 8 << 30  # for one type
RESULTS = ("right", "refused", "wrong", "traceback", "cannot be built tiny")


@click.command()
@click.argument("kinds", nargs=-1)
@click.option("--jobs", default=max(1, (os.cpu_count() or 1) // 2), show_default=True, help="Types tried at a time.")
def main(kinds: tuple[str, ...], jobs: int) -> None:
    """Try KINDS, or all types and write docs/architectures.md; fail where one is wrong or ends with a traceback."""
    chosen = kinds or tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    warm_up()
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(tried, chosen):
            outcomes.append(outcome)
            print(outcome.kind, outcome.result, outcome.stage, outcome.text, outcome.long, sep=" | ", flush=True)
    counts = {result: sum(o.result == result for o in outcomes) for result in RESULTS}
    print(counts)
    if not kinds:
        TARGET.write_text(page(outcomes, counts), encoding="utf-8")
    sys.exit(1 if counts["wrong"] or counts["traceback"] else 0)


def tried(kind: str) -> Outcome:
    """Try one type in a process of its own, with bounded time and memory."""
    folder = Path(tempfile.mkdtemp(prefix="architecture-"))
    process = multiprocessing.get_context("fork").Process(target=_child, args=(kind, folder))
    process.start()
    process.join(SECONDS)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    path = folder / "outcome.json"
    if path.is_file():
        outcome = Outcome(**json.loads(path.read_text()))
    else:
        why = f"not done after {SECONDS} s" if late else f"the process ended with {process.exitcode}"
        outcome = Outcome(kind, "traceback", "", why)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _child(kind: str, folder: Path) -> None:
    """Write the outcome to folder/outcome.json; what stages and libraries say goes to folder/output."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    outcome = try_architecture(kind, folder)
    text = json.dumps(vars(outcome)).replace(str(folder), "...")
    (folder / "outcome.json").write_text(text)


def page(outcomes: list[Outcome], counts: dict[str, int]) -> str:
    """Return docs/architectures.md."""
    said = ", ".join(f"{counts[result]} {result}" for result in RESULTS)
    lines = [
        "# Architectures",
        "",
        f"Every causal language model type of transformers {transformers.__version__}, tried by `make architectures`: "
        f"{said}.",
        "",
        "Each is built tiny, with random weights in fp32, and goes through one round of the real stages with LoRA on",
        "all linear layers (of its language model, where it has other parts).",
        "",
        "- **right**: the log probabilities of sampled and of greedy responses, prompts of different lengths together,",
        "  with and without a common start, are those of plain transformers forwards of each alone; the first ratio of",
        "  the update is 1; PEFT reads the adapter and gives the policy's logits.",
        "- **refused**: a stage ends with one line, which is shown.",
        "- **cannot be built tiny**: not by this script, so that nothing is known of it.",
        "",
        "Prompts beyond the model's windows and borders are right too, or refused before decoding with the line in the",
        "last column.",
        "",
        "| type | result | at | what it says | long prompts |",
        "|---|---|---|---|---|",
    ]
    for o in outcomes:
        cells = (f"`{o.kind}`", o.result, o.stage, o.text, o.long)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
