"""TRL 1.12.0's PPOTrainer (1.16.0 has none) learning the run's task: its curve as JSON.

    TRL_EXPERIMENTAL_SILENCE=1 PYTHONPATH=. python benchmarks/peers/learning_trl_ppo.py --base data/base \
        --prompts data/prompts.parquet --params params.yaml --settings docs --seed 0 --device cuda --out ppo.json
"""

import tempfile
from argparse import Namespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.peers.learning_record import Record, ended
from benchmarks.peers.learning_task import Task, arguments
from benchmarks.peers.learning_trl_settings import settings_of


class TextReward(nn.Module):
    """Stands where TRL wants a reward model; `reward_by_text` sees to it that it is never run."""


def reward_by_text(record: Record, pad: int) -> Any:
    """Return TRL's get_reward, which gives a TextReward's samples to the project's reward instead."""
    original, names = ppo_trainer.get_reward, {tuple(ids): name for name, ids in record.task.ids.items()}

    def get_reward(model: nn.Module, rows: Tensor, pad_token_id: int, context: int) -> tuple[Any, Tensor, Any]:
        if not isinstance(model, TextReward):
            found: tuple[Any, Tensor, Any] = original(model, rows, pad_token_id, context)
            return found
        texts = [tuple(i for i in row if i != pad) for row in rows[:, :context].tolist()]
        answers = [ended([i for i in row if i != pad], record.stops) for row in rows[:, context:].tolist()]
        scores = record.reward([names[text] for text in texts], answers)
        return None, torch.tensor(scores, device=rows.device), None

    return get_reward


def critic(task: Task, lora: LoraConfig, whole: bool) -> nn.Module:
    """Return the value model: the base with a head, as in TRL's examples, trained whole or as `critic: separate` is."""
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(task.base, num_labels=1, dtype=torch.float32)
    if not whole:
        inject_adapter_in_model(lora, model)
        model.score.requires_grad_(True)
        if task.params.policy.value_head_init == "zero":
            nn.init.zeros_(model.score.weight)
    return model


def optimizer_of(task: Task, policy: nn.Module, value: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as this project's `update` has it: policy and critic each at their own learning rate."""
    update = task.params.update
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}
              for model, lr in ((policy, update.lr), (value, update.value_lr))]  # fmt: skip
    return torch.optim.AdamW(
        groups, betas=(update.adam_beta1, update.adam_beta2), eps=update.adam_eps, weight_decay=update.weight_decay
    )


def main(given: Namespace) -> None:
    """Train and write the curve."""
    task = Task.read(given.base, given.prompts, given.params)
    settings = settings_of("ppo", given.settings, task.params, given.samples, given.rounds)
    settings |= {"learning_rate": given.lr} if given.lr else {}
    set_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.base, padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # as in TRL's ppo.py: what is padding is masked everywhere
    shape = task.params.policy
    lora = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=shape.target_modules, task_type="CAUSAL_LM")
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32), lora)
    value = critic(task, lora, whole=given.settings == "docs")
    own = optimizer_of(task, policy, value) if given.settings == "ours" else None
    train = Dataset.from_dict({"input_ids": [task.ids[n] for n in task.split("train").column("prompt_id").to_pylist()]})
    if len(train) < given.samples:  # its loader drops a batch that is not full, and then asks for one for ever
        raise SystemExit(f"{len(train)} prompts to train on; PPOTrainer needs one for each of {given.samples} samples")
    record = Record(task, given, "ppo", settings, steps=1)
    record.model = policy
    ppo_trainer.get_reward = reward_by_text(record, tokenizer.pad_token_id)

    class Noting(PPOTrainer):  # type: ignore[misc]
        """Notes the KL that TRL logs."""

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            record.kl(logs["objective/kl"])
            super().log(logs, start_time)

    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            **settings, output_dir=folder, seed=given.seed, use_cpu=given.device == "cpu", bf16=True,
            num_sample_generations=0, local_rollout_forward_batch_size=given.samples, report_to="none",
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Noting(
            args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=TextReward(),
            value_model=value, train_dataset=train, eval_dataset=train.select(range(1)), callbacks=[record],
            optimizers=(own, None),
        ).train()  # fmt: skip


if __name__ == "__main__":
    main(arguments("TRL's PPOTrainer on the run's task").parse_args())
