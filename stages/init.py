"""Stage `init`: the untrained policy r000: fresh LoRA, or the whole base model; critic and optimizer."""

import torch

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, copy_model_files, save_trainer
from ppo_pipeline.models.four_bit import NF4, quantizable
from ppo_pipeline.models.fresh import fresh_lora
from ppo_pipeline.models.loading import hidden_width, load_model, read_source
from ppo_pipeline.models.lora import copy_with_same_weights
from ppo_pipeline.models.policy import Policy, SeparateCritic
from ppo_pipeline.models.trial import try_whole
from ppo_pipeline.models.value_head import ValueHead, init_value_head
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.settings.params import ROOT, load_params
from ppo_pipeline.storage.files import atomic_folder
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES


def run() -> None:
    """Write r000: a policy that is the base still, a fresh critic, no moments, nothing remembered of any prompt."""
    params = load_params()
    settings, paths = params.policy, Paths(ROOT, start=params.start)
    model = load_model(paths.base, torch.device("cpu"), "auto")
    twin = None
    if settings.critic == "separate":
        twin = copy_with_same_weights(model) if settings.tuning == "lora" else model
    quantization = None
    if settings.quantization is not None:
        quantizable(model)
        quantization = NF4
    if settings.tuning == "lora":
        layers, left_out = fresh_lora(model, settings, params.seed)
        text = f"LoRA on {len(layers)} layers{_but(', none on', left_out)}"
    else:
        layers, text = {}, "the whole model"
    head = None
    if settings.critic != "none":
        head = ValueHead(hidden_width(model))
        init_value_head(head, settings.value_head_init, settings.value_head_std, params.seed)
    separate = None
    if twin is not None:
        own = fresh_lora(twin, settings, params.seed + 1, list(layers))[0] if layers else {}
        separate = SeparateCritic(twin, own)
    policy = Policy(model, layers, head, separate)
    if layers:
        config = adapter_config(settings, read_source(paths.base)["model"], layers, model)
        save_policy(policy, config, paths.policy, quantization)
    else:
        text += _but(" less what gets no gradient from text:", try_whole(policy))
        with atomic_folder(paths.policy) as partial:
            copy_model_files(paths.base, partial, weights=True)
    save_trainer(policy, TrainerState(), paths.trainer)
    PROMPT_SCORES.write(PROMPT_SCORES.arrow.empty_table(), paths.prompt_scores)
    trained = sum(p.numel() for p in policy.policy_parameters().values())
    result("init", f"{text}, {trained:,} trained parameters, critic: {settings.critic}")


def _but(what: str, names: list[str]) -> str:
    """Return `what` and the first names, nothing without a name."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}" if names else ""
