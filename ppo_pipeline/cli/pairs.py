"""`ppo-pipeline pairs`: pairs of answers for a reward model, of the samples that rounds left."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..errors import PipelineError, nearest
from ..prompts.conversations import Messages
from ..settings.params import ROOT, load_params
from ..storage.files import atomic_file
from .pair_choice import Two, pairs_of
from .pair_samples import by_prompt, check_scores, refuse_other_rewards, samples_of
from .printed import note
from .round_named import round_named

DECIDED, UNDECIDED = Path("data/pairs/pairs.jsonl"), Path("data/judge/pairs.jsonl")


@click.command()
@click.argument("rounds", nargs=-1, required=True, metavar="ROUND...")
@click.option("--by", metavar="NAME", help="The score that decides: score, or a component of the reward. Else score.")
@click.option("--min-gap", type=click.FloatRange(min=0), help="Leave out pairs whose scores are nearer than this.")
@click.option("--per-prompt", type=click.IntRange(min=1), help="At most so many pairs of a prompt; else all.")
@click.option("--heldout", is_flag=True, help="Sampled answers to held-out prompts too (evaluate.samples_per_prompt).")
@click.option("--judge", is_flag=True, help="Undecided pairs, for `ppo-pipeline judge`; without --by, of any scores.")
@click.option("--out", type=click.Path(path_type=Path), help=f"Else {DECIDED}, with --judge {UNDECIDED}.")
@click.option("--overwrite", is_flag=True, help="Replace the file where it is there already.")
def pairs(
    rounds: tuple[str, ...], by: str | None, min_gap: float | None, per_prompt: int | None, heldout: bool, judge: bool,
    out: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Make pairs of different answers to the same prompt, of all samples of each ROUND together, and write them as
    JSON lines: prompt, chosen (that of the higher score), rejected, margin (the gap), and where each came from."""
    out = out or (UNDECIDED if judge else DECIDED)
    if out.suffix != ".jsonl":
        raise PipelineError(f"{out}: call it .jsonl, since it holds JSON lines.")
    if out.exists() and not overwrite:
        raise PipelineError(f"{out}: exists already; choose another --out, or give --overwrite.")
    params = load_params()
    names = list(dict.fromkeys(round_named(params, name) for name in rounds))
    known = [ROOT, *params.all_rounds]
    for name in names:
        if name not in known:
            raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    by = by or (None if judge and min_gap is None else "score")
    samples = samples_of(names, heldout, by is not None)
    if by is not None:
        check_scores(samples, by)
        refuse_other_rewards(params, names, by)
    left_out: Counter[str] = Counter()
    rows = [
        row_of(messages, pair, None if judge else by)
        for messages, group in by_prompt(samples, left_out)
        for pair in pairs_of(group, by, min_gap or 0.0, per_prompt, left_out)
    ]
    said = "".join(f"\n{count} {what}" for what, count in left_out.items() if count)
    if not rows:
        raise PipelineError(f"no pairs of {len(samples)} samples. Left out:{said}")
    with atomic_file(out) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    prompts = len({row["prompt_id"] for row in rows})
    note(f"{out}: {len(rows)} pairs of {prompts} prompts" + (f". Left out:{said}" if said else ""))
    note(_next(out, judge))


def row_of(messages: Messages, pair: Two, by: str | None) -> dict[str, Any]:
    """Return a pair as it is written; undecided without `by`. Lists name the chosen answer's first."""
    a, b = pair
    row: dict[str, Any] = {"prompt_id": a.prompt_id, "prompt": messages}
    if by is None:
        row["responses"] = [a.text, b.text]
    else:
        row |= {"chosen": a.text, "rejected": b.text, "margin": a.scores[by] - b.scores[by], "by": by}
    row |= {"rounds": [a.round, b.round], "sample_ids": [a.sample_id, b.sample_id]}
    scores = {name: [a.scores[name], b.scores[name]] for name in a.scores if name in b.scores}
    return row | ({"scores": scores} if scores else {})


def _next(out: Path, judge: bool) -> str:
    if judge:
        return f"`ppo-pipeline judge {out}` shows them to you"
    return f"params.yaml: `preferences: {{{out.stem}: {{source: {out}, heldout_fraction: 0.1}}}}` reads them"
