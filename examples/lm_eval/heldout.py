"""Write a project's held-out prompts, each as the model sees it, to heldout.jsonl: python heldout.py [ROUND].

ROUND is one that was evaluated, r000 unless given: the prompts are the same for all.
"""

import json
import sys
from pathlib import Path

import ppo_pipeline

run = ppo_pipeline.open(".")
expected = {row["prompt_id"]: row["expected"] for row in run.prompts().to_pylist()}
answered = run.evaluation(sys.argv[1] if len(sys.argv) > 1 else "r000").to_pylist()
rows = [{"prompt": row["prompt_text"], "expected": expected[row["prompt_id"]]} for row in answered]
text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
Path("heldout.jsonl").write_text(text, encoding="utf-8")
