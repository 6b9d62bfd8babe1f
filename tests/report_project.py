"""A project with made-up rounds for the report's tests: real tables and tokenizer, random numbers, awkward texts."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import tiny_tokenizer

from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import ragged

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGE = "<img src=x onerror=\"document.title='hit'\">"
SCRIPT = "</script><script>document.title='hit'</script>"
TEXTS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Show me an image tag.", IMAGE),
    ("请用一句话介绍北京。", "北京是中国的首都，有三千多年的历史，“故宫”就在市中心🙂。"),
    ("ما هي عاصمة مصر؟", "عاصمة مصر هي القاهرة، وعدد سكانها نحو 10 ملايين."),
    ("מהי בירת ישראל?", "בירת ישראל היא ירושלים, ויש בה כ-1,000,000 תושבים."),
    ("End the script.", SCRIPT),
    ("Two lines, a tab and an escape.", "one\n\ttwo \x1b[31mred\u2028three"),
]
# Rounds whose names end in b are marked: the main line is theirs.
BRANCHED = {"r001": "r000", "r002": "r001", "r003": "r002", "r002b": "r001", "r003b": "r002b"}


def work_on_copy(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a project to `folder`, and make that the working folder; return it."""
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def write_project(
    folder: Path, rounds: dict[str, str], samples: int, texts: list[tuple[str, str]] = TEXTS, seed: int = 0
) -> Path:
    """Write params.yaml, tokenizer, prompts, metrics and the tables of `rounds`, {name: parent}; return the folder."""
    settings = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").partition("\nrounds:")[0]
    entries = [
        f"  {name}: {{parent: {parent}{', main: true, advantage: {kl_coef: 0.2}' if name.endswith('b') else ''}}}\n"
        for name, parent in rounds.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(f"{settings}\nrounds:\n{''.join(entries)}", encoding="utf-8")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "data/base")
    write_prompts(folder, texts, samples)
    random = np.random.default_rng(seed)
    for depth, name in enumerate(["r000", *rounds]):
        write_eval(folder / "data/rounds" / name, texts, tokenizer, random)
        if name != "r000":
            write_round(folder / "data/rounds" / name, name, texts, samples, tokenizer, random)
        write_json(folder / f"metrics/rounds/{name}.json", metrics(depth, random) if depth else {"eval/scores": 0.1})
    return folder


def write_prompts(folder: Path, texts: list[tuple[str, str]], samples: int) -> None:
    ids = [f"p{k}" for k in range(max(samples, len(texts)))] + [f"h{k}" for k in range(len(texts))]
    said = [texts[int(name[1:]) % len(texts)][0] for name in ids]
    messages = pa.array([[{"role": "user", "content": text}] for text in said])
    split = ["train" if name.startswith("p") else "heldout" for name in ids]
    PROMPTS.write(pa.table({"prompt_id": ids, "messages": messages, "split": split}), folder / "data/prompts.parquet")


def write_round(folder: Path, name: str, texts: Any, samples: int, tokenizer: Any, random: Any) -> None:
    pairs = [texts[k % len(texts)] for k in range(samples)]
    ids = [[*tokenizer(answer)["input_ids"], tokenizer.eos_token_id] for _, answer in pairs]
    counts = np.array([len(each) for each in ids])

    def floats(scale: float = 1.0) -> pa.Array:
        return ragged(scale * random.standard_normal(counts.sum()), counts, pa.float32())

    keys = [f"{name}-p{k}-0" for k in range(samples)]
    rendered = [f"<|user|>{prompt}<|end|><|assistant|>" for prompt, _ in pairs]
    rollouts = {
        "sample_id": keys, "prompt_id": [f"p{k}" for k in range(samples)], "sample_index": [0] * samples,
        "prompt_text": rendered, "response_text": [answer for _, answer in pairs], "prompt_ids": [[1, 2]] * samples,
        "response_ids": ids, "rollout_logprobs": floats(),
        "kept_mass": ragged(np.ones(counts.sum()), counts, pa.float32()),
        "finish_reason": ["length" if k % 5 == 4 else "stop" for k in range(samples)],
    }  # fmt: skip
    ROLLOUTS.write(pa.table(rollouts), folder / "rollouts.parquet")
    parts = {"clarity": random.standard_normal(samples), "brevity": random.standard_normal(samples)}
    score = parts["clarity"] + parts["brevity"]
    rewards = {"sample_id": keys, "score": score, "correct": score > 0, **parts}
    REWARDS.write(pa.table(rewards), folder / "rewards.parquet")
    # entropy: a column that the reference table may have
    known = ("policy_logprobs", "reference_logprobs", "values", "entropy")
    reference = {column: floats() for column in known if column in REFERENCE.arrow.names}
    more = {"bootstrap_value": random.standard_normal(samples)}
    REFERENCE.write(pa.table({"sample_id": keys, **reference, **more}), folder / "reference.parquet")
    advantages = {
        "token_rewards": floats(0.1),
        "advantages": floats(),
        "returns": floats(),
        "correct": pa.nulls(samples, pa.bool_()),
    }
    ADVANTAGES.write(pa.table({"sample_id": keys, **advantages}), folder / "advantages.parquet")


def write_eval(folder: Path, texts: list[tuple[str, str]], tokenizer: Any, random: Any) -> None:
    rows = {
        "prompt_id": [f"h{k}" for k in range(len(texts))],
        "prompt_text": [f"<|user|>{prompt}<|end|><|assistant|>" for prompt, _ in texts],
        "response_text": [answer for _, answer in texts],
        "response_ids": pa.array([tokenizer(answer)["input_ids"] for _, answer in texts], pa.list_(pa.int32())),
        "finish_reason": ["stop"] * len(texts), "score": random.standard_normal(len(texts)),
        "correct": [True] * len(texts), "clarity": random.standard_normal(len(texts)),
    }  # fmt: skip
    EVALUATION.write(pa.table(rows), folder / "eval.parquet")


def metrics(depth: int, random: Any) -> dict[str, float]:
    names = ["eval/scores", "objective/scores", "objective/kl", "objective/entropy", "val/response_length", "lr"]
    return {name: float(depth + random.random()) for name in names}
