"""The newest TRL's RewardTrainer on the pairs, tokens and settings of an entry of `reward_model`, and the stage's run.

    PYTHONPATH=. python benchmarks/peers/learning_trl_reward.py quality --device cuda --out trl-reward.json

It is started in the project's folder, where data/preferences/ is, and where the stage left metrics/reward_model/ and
logs/ if it has run there: their numbers come into the file too. --steps: so many of each, for a try.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.reward_model_sections import RewardModel
from ppo_pipeline.tables.preferences import PREFERENCES
from ppo_pipeline.training.reward_model.evaluation import evaluation_metrics
from ppo_pipeline.training.reward_model.inputs import Asked
from ppo_pipeline.training.reward_model.training import Training

SCHEDULES = {"constant": "constant_with_warmup"}


def trl_settings(s: RewardModel, steps: int) -> dict[str, Any]:
    """Return TRL's names for an entry's settings. steps: 0 for all epochs."""
    return {
        "num_train_epochs": s.epochs, "max_steps": steps or -1, "per_device_train_batch_size": s.batch_size,
        "learning_rate": s.lr, "lr_scheduler_type": SCHEDULES.get(s.lr_schedule, s.lr_schedule),
        "warmup_steps": s.warmup_ratio, "adam_beta1": s.adam_beta1, "adam_beta2": s.adam_beta2,
        "adam_epsilon": s.adam_eps, "weight_decay": s.weight_decay, "max_grad_norm": s.max_grad_norm or 0.0,
        "seed": s.seed, "gradient_checkpointing": s.gradient_checkpointing, "max_length": None,
    }  # fmt: skip


def lora_of(s: RewardModel) -> LoraConfig | None:
    """Return PEFT's LoRA with the head trained whole, as TRL advises; None where all is trained."""
    if s.tuning == "full":
        return None
    return LoraConfig(
        r=s.rank, lora_alpha=s.alpha, lora_dropout=s.dropout, use_rslora=s.use_rslora, target_modules=s.target_modules,
        task_type="SEQ_CLS", modules_to_save=["score"],
    )  # fmt: skip


def tokenised(asked: Asked, margins: list[float] | None) -> Dataset:
    """Return pairs as TRL takes those that have been tokenised."""
    columns: dict[str, Any] = {"chosen_ids": asked.chosen, "rejected_ids": asked.rejected}
    return Dataset.from_dict(columns | ({} if margins is None else {"margin": margins}))


@torch.no_grad()
def rewards_of(model: Any, asked: Asked) -> np.ndarray:
    """Return the rewards of both answers of each pair (1, 2, N)."""
    model.eval()
    found = []
    for ids in [*asked.chosen, *asked.rejected]:  # one by one, without padding
        row = torch.tensor([ids], device=model.device)
        found.append(float(model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0]))
    return np.array(found).reshape(1, 2, -1)


def main(given: argparse.Namespace) -> None:
    """Train, evaluate, and write both learners' numbers."""
    params, paths = load_params(), Paths()
    settings: RewardModel = params.entry("reward_model", given.name)
    tokenizer, source = load_tokenizer(Path(settings.model)), paths.preferences(settings.preferences)
    pairs = Training(settings, f"reward_model.{given.name}", tokenizer)
    shown = {key: getattr(params, key) for key in ("chat_template", "date", "special_tokens")}
    pairs.read(PREFERENCES.read(source), source, shown)
    set_seed(settings.seed)
    model = AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=1, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(
            **trl_settings(settings, given.steps), output_dir=folder, use_cpu=given.device == "cpu",
            bf16=given.device != "cpu", report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=model, args=args, train_dataset=tokenised(pairs.training, pairs.margins()),
            processing_class=tokenizer, peft_config=lora_of(settings),
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    prompts = pairs.pairs["heldout"].take(pairs.heldout.rows).column("prompt_id").to_pylist()
    rewards = rewards_of(trainer.model, pairs.heldout)
    cuda = torch.cuda.max_memory_allocated() / 1e9 if given.device == "cuda" else None
    trl = {
        "training_seconds": round(seconds, 1), "steps": trainer.state.global_step, "peak_gpu_memory_gb": cuda,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        **evaluation_metrics(rewards, prompts, pairs.heldout),
    }  # fmt: skip
    ours = {}
    for path in (paths.named_metrics("reward_model", given.name), Path("logs", given.name, "reward_model.json")):
        ours |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    given.out.write_text(json.dumps({"trl": trl, "ours": ours}, indent=2) + "\n", encoding="utf-8")
    told = (
        "eval/accuracy",
        "eval/accuracy_se",
        "eval/loss",
        "training_seconds",
        "peak_memory_gb",
        "peak_gpu_memory_gb",
    )
    for name in told:
        print(f"{name}: TRL {trl.get(name)}, the stage {ours.get(name)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="TRL's RewardTrainer on an entry of `reward_model`")
    parser.add_argument("name", help="of the entry")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: all (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    main(parser.parse_args())
