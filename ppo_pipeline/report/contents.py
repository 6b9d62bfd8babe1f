"""All that the page shows, as blocks of plain data: an index that it opens with, and the rest for when it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError
from ..project.paths import Paths
from ..settings.params import ROOT
from ..tables.evaluation import EVALUATION
from .compared import compared
from .conversations import Conversations
from .curves import curves
from .distributions import distributions
from .round_data import read_round
from .run import Run
from .samples import FEWEST_ANSWERS, Texts, answer_table, row_limit, sample_table, token_limit
from .stage_times import stage_times
from .token_numbers import scales, token_block
from .token_texts import TokenTexts


@dataclass(frozen=True)
class Contents:
    """blocks: JSON-ready data by name. shown, total: samples in the page and in the rounds. notes: what is left out."""

    blocks: dict[str, Any]
    shown: int
    total: int
    notes: list[str]


def contents(run: Run, samples: int | None = None, others: Sequence[str] = (), watched: float = 0.0) -> Contents:
    """Return what the page shows of `run`: at most `samples` samples and held-out answers of each round.

    Without `samples` as many as keep the file sensible: 5,000 samples and a million tokens in all. others: folders
    and DVC experiments to set beside it. watched: seconds after which the page loads itself anew, 0 for never.
    """
    trained = [name for name in run.shown if name != ROOT]
    most = samples or row_limit(len(trained))
    conversations = Conversations(run)
    every = [r for name in trained if (r := read_round(run, name, most, conversations)) is not None]
    limit = samples or token_limit(every)
    rounds = [r.first(limit) for r in every]
    texts, tokenizer = Texts(), _tokenizer(run)
    index: dict[str, Any] = {
        "facts": run.facts(),
        "curves": curves(run),
        "compared": compared(run, others),
        "times": stage_times(run),
        "distributions": distributions(rounds),
        "samples": sample_table(rounds, texts),
        "own": conversations.columns(i for r in rounds for i in r.rollouts.column("prompt_id").to_pylist()),
        "rounds": [{"name": r.name, "shown": r.rollouts.num_rows, "total": r.total} for r in rounds],
        "scales": scales(rounds),
    }
    blocks = {f"tokens-{r.name}": token_block(r, tokenizer) for r in rounds}
    heldout_texts = Texts()
    heldout, cut = _heldout(run, samples or max(FEWEST_ANSWERS, most), heldout_texts, conversations)
    shown, total = sum(r.rollouts.num_rows for r in rounds), sum(r.total for r in rounds)
    notes = run.all_notes()
    if shown < total:
        notes.insert(0, f"{shown:,} of {total:,} samples are in this file, the first of each round.")
    if cut:
        notes.insert(0, f"Of {cut[1]:,} held-out prompts the first {cut[0]:,} are in this file.")
    index |= {"notes": notes, "texts": texts.all, "total": total, "watched": watched}
    own = conversations.columns(i for table in heldout.values() for i in table["prompt_id"])
    blocks = {"index": index, "heldout": {"texts": heldout_texts.all, "rounds": heldout, "own": own}, **blocks}
    return Contents(blocks, shown, total, notes)


def _tokenizer(run: Run) -> TokenTexts | None:
    try:
        return TokenTexts(Paths(root=run.root, start=run.params.start).base)
    except PipelineError as error:
        run.notes.append(str(error.message).replace(f"{run.root}/", ""))
        return None


def _heldout(
    run: Run, limit: int, texts: Texts, conversations: Conversations
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Return the held-out answers of r000 and the shown rounds, and (shown, all) where prompts were left out."""
    found, cut = {}, None
    for name in dict.fromkeys([ROOT, *run.shown]):
        table = run.read(EVALUATION, name)
        if table is None or not table.num_rows:
            continue
        head = table.slice(0, limit)
        found[name] = answer_table(head, conversations.turns(head), texts)
        if head.num_rows < table.num_rows:
            cut = (head.num_rows, table.num_rows)
    return found, cut
