"""Stage `init`: the untrained policy r000, with fresh LoRA, value head and optimizer."""

from pathlib import Path

import click
import torch

from ppo_pipeline.models.checkpoint import TrainerState, adapter_config, save_policy, save_trainer
from ppo_pipeline.models.loading import load_model, read_source
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.params import load_params
from ppo_pipeline.progress import result


@click.command()
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--policy", "policy_folder", type=click.Path(path_type=Path), required=True)
@click.option("--trainer", "trainer_folder", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, base: Path, policy_folder: Path, trainer_folder: Path) -> None:
    """Write r000: LoRA that changes nothing yet, a value head that says 0, no moments."""
    params = load_params(params_path)
    settings = params.policy
    model = load_model(base, torch.device("cpu"), torch.bfloat16)
    layers = add_lora(model, settings.target_modules, settings.rank, settings.alpha, settings.dropout)
    init_lora(layers, params.seed)
    policy = Policy(model, layers, ValueHead(model.config.hidden_size))
    name = read_source(base)["model"]
    save_policy(policy, adapter_config(settings, name, layers), policy_folder)
    save_trainer(policy, TrainerState(), trainer_folder)
    trained = sum(p.numel() for p in policy.lora_parameters().values())
    result("init", f"LoRA on {len(layers)} layers, {trained:,} trained parameters")


if __name__ == "__main__":
    main()
