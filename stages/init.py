"""Stage `init`: the untrained policy r000: fresh LoRA, or the whole base model; critic and optimizer."""

from pathlib import Path
from typing import Any

import click
import torch

from ppo_pipeline.files import whole_folder
from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, copy_model_files, save_trainer
from ppo_pipeline.models.loading import hidden_width, load_model, read_source
from ppo_pipeline.models.lora import LoraLinear, add_lora, copy_with_same_weights, init_lora
from ppo_pipeline.models.policy import Policy, SeparateCritic
from ppo_pipeline.models.trial import try_lora, try_whole
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.params import load_params
from ppo_pipeline.progress import result
from ppo_pipeline.sections import Policy as PolicySettings
from ppo_pipeline.stage_command import StageCommand


@click.command("init", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--policy", "policy_folder", type=click.Path(path_type=Path), required=True)
@click.option("--trainer", "trainer_folder", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, base: Path, policy_folder: Path, trainer_folder: Path) -> None:
    """Write r000: a policy that is the base still, a critic that says 0, no moments."""
    params = load_params(params_path)
    settings = params.policy
    model = load_model(base, torch.device("cpu"), "auto")
    twin = None
    if settings.critic == "separate":
        twin = copy_with_same_weights(model) if settings.tuning == "lora" else model
    if settings.tuning == "lora":
        layers = fresh_lora(model, settings, params.seed)
        text = f"LoRA on {len(layers)} layers"
    else:
        layers, text = {}, "the whole model"
    head = None if settings.critic == "none" else ValueHead(hidden_width(model))
    separate = None
    if twin is not None:
        own = fresh_lora(twin, settings, params.seed + 1) if layers else {}
        separate = SeparateCritic(twin, own)
    policy = Policy(model, layers, head, separate)
    fixed: list[str] = []
    if layers:
        try_lora(policy)
        save_policy(policy, adapter_config(settings, read_source(base)["model"], layers, model), policy_folder)
    else:
        fixed = try_whole(policy)
        with whole_folder(policy_folder) as partial:
            copy_model_files(base, partial, weights=True)
    save_trainer(policy, TrainerState(), trainer_folder)
    trained = sum(p.numel() for p in policy.policy_parameters().values())
    result("init", f"{text}{_but(fixed)}, {trained:,} trained parameters, critic: {settings.critic}")


def _but(fixed: list[str]) -> str:
    """Name the weights of a wholly trained model that no text reaches."""
    return f" but {len(fixed)} weights that get no gradient ({', '.join(fixed[:2])}, ...)" if fixed else ""


def fresh_lora(model: Any, settings: PolicySettings, seed: int) -> dict[str, LoraLinear]:
    """Put LoRA that changes nothing yet onto the model."""
    s = settings
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, s.dropout, s.use_rslora)
    init_lora(layers, seed)
    return layers


if __name__ == "__main__":
    main()
