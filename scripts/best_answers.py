"""Write each prompt's best finished sample of a round as a demonstration for stage `sft`.

Best of n, as RAFT does it (arXiv:2304.06767).

python scripts/best_answers.py r001 --at-least 2 data/demonstrations/requests.jsonl
"""

import json
from pathlib import Path

import click
import pyarrow as pa

from ppo_pipeline.project.paths import Paths
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS


@click.command()
@click.argument("name", metavar="ROUND")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--at-least", type=float, required=True, help="Leave out prompts whose best score is below this.")
def main(name: str, target: Path, at_least: float) -> None:
    """Read the round's tables in the current folder; write prompt and completion, a line for each prompt."""
    paths = Paths(name)
    conversations = PROMPTS.read(paths.prompts, ["prompt_id", "messages"]).to_pydict()
    messages = dict(zip(conversations["prompt_id"], conversations["messages"], strict=True))
    rollouts = ROLLOUTS.read(paths.rollouts, ["sample_id", "prompt_id", "response_text", "finish_reason"])
    table: pa.Table = rollouts.join(REWARDS.read(paths.rewards, ["sample_id", "score"]), "sample_id")
    best: dict[str, dict[str, object]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: (-row["score"], row["sample_id"])):
        if row["finish_reason"] == "stop" and row["score"] >= at_least and row["response_text"].strip():
            best.setdefault(row["prompt_id"], row)
    lines = [
        json.dumps({"prompt": messages[key], "completion": best[key]["response_text"]}, ensure_ascii=False)
        for key in messages
        if key in best
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo(f"{target}: {len(lines)} demonstrations")


if __name__ == "__main__":
    main()
