"""The newest TRL's GRPOTrainer or RLOOTrainer learning the run's task: its curve as JSON.

    PYTHONPATH=. python benchmarks/peers/learning_trl_grpo.py --trainer rloo --base data/base \
        --prompts data/prompts.parquet --params params.yaml --settings docs --seed 0 --device cuda --out rloo.json
"""

import tempfile
from argparse import Namespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from benchmarks.peers.learning_record import Record
from benchmarks.peers.learning_task import Task, arguments
from benchmarks.peers.learning_trl_settings import settings_of

TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}


def conversations(task: Task) -> Dataset:
    """Return the training prompts, to which TRL itself applies the chat template: the same tokens, or this fails."""
    rows = task.split("train").select(["prompt_id", "messages"]).to_pylist()
    for row in rows:
        found = task.tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]
        if found != task.ids[row["prompt_id"]]:
            raise SystemExit(f"{row['prompt_id']}: TRL gives the model another prompt than the project does")
    return Dataset.from_list([{"prompt": row["messages"], "prompt_id": row["prompt_id"]} for row in rows])


def noting(trainer: type, record: Record) -> type:
    """Return the trainer, noting the KL of what it samples by the formula that TRL's PPOTrainer logs."""

    class Noting(trainer):  # type: ignore[misc,valid-type]
        """Compares policy and base on the samples, while the clock stands still."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            with record.aside(), torch.no_grad():
                ids, mask = (
                    torch.cat([output[f"prompt_{what}"], output[f"completion_{what}"]], 1) for what in ("ids", "mask")
                )
                width, rows = output["completion_ids"].shape[1], self.args.per_device_train_batch_size
                asked = (self.model, ids, mask, width, rows)
                policy = self._get_per_token_logps_and_entropies(*asked)[0]
                with self.accelerator.unwrap_model(self.model).disable_adapter():
                    base = self._get_per_token_logps_and_entropies(*asked)[0]
                record.kl(float(((policy - base) * output["completion_mask"]).sum(1).mean()))
            return output

    return Noting


def main(given: Namespace) -> None:
    """Train and write the curve."""
    task = Task.read(given.base, given.prompts, given.params)
    settings = settings_of(given.trainer, given.settings, task.params, given.samples, given.rounds)
    settings |= {"learning_rate": given.lr} if given.lr else {}
    set_seed(given.seed)
    shape = task.params.policy
    lora = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=shape.target_modules, task_type="CAUSAL_LM")
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32), lora)
    record = Record(task, given, given.trainer, settings, steps=settings["max_steps"] // given.rounds)
    record.model = policy

    def reward(prompt_id: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return record.reward(prompt_id, completion_ids)

    config, trainer = TRAINERS[given.trainer]
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            **settings, output_dir=folder, seed=given.seed, use_cpu=given.device == "cpu", bf16=True,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        noting(trainer, record)(
            model=policy, reward_funcs=reward, args=args, train_dataset=conversations(task),
            processing_class=task.tokenizer, callbacks=[record],
        ).train()  # fmt: skip


if __name__ == "__main__":
    parser = arguments("TRL's GRPOTrainer or RLOOTrainer on the run's task")
    parser.add_argument("--trainer", choices=tuple(TRAINERS), required=True)
    main(parser.parse_args())
