"""One update of TRL 1.12.0's PPOTrainer with PEFT's LoRA after one to warm up, in bf16 where that is fast.

Its value model is the same base; its reward model a random one of one narrow layer, so that the reward costs nothing.
"""

import itertools
import json
import resource
import sys
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.machine import fast_dtype
from benchmarks.prompts import prompts

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(base: str, count: int, new_tokens: int) -> None:
    """Print the seconds of the second update and the process's peak memory."""
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    cuda = torch.cuda.is_available()
    dtype = getattr(torch, fast_dtype())
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    value = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
    small = AutoConfig.from_pretrained(base)
    small.update({"num_hidden_layers": 1, "num_labels": 1})
    reward = AutoModelForSequenceClassification.from_config(small, dtype=dtype)
    for model in (value, reward):
        model.config.pad_token_id = tokenizer.pad_token_id
    ids = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in prompts(count)
    ]
    data = Dataset.from_dict({"input_ids": ids})
    moments: list[float] = []

    class Timed(PPOTrainer):  # type: ignore[misc]
        """Notes the time at each update's end, where TRL logs."""

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            moments.append(time.perf_counter())
            super().log(logs, start_time)

    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            output_dir=folder, per_device_train_batch_size=count // 4, gradient_accumulation_steps=4,
            num_mini_batches=4, num_ppo_epochs=2, total_episodes=2 * count, response_length=new_tokens,
            temperature=0.7, stop_token="eos", local_rollout_forward_batch_size=count, num_sample_generations=0,
            learning_rate=3e-4, bf16=dtype is torch.bfloat16, use_cpu=not cuda,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Timed(
            args=settings, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
            value_model=value, train_dataset=data, eval_dataset=data.select(range(1)),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    moments = [started, *moments]
    updates = [b - a for a, b in itertools.pairwise(moments)]
    print(json.dumps({"updates": updates, "rss_gb": round(peak, 2)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
