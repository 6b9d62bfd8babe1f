"""`ppo-pipeline export`: a round's policy as a plain transformers model."""

from pathlib import Path

import click

from ..errors import PipelineError
from ..files import whole_folder
from ..params import load_params
from .policies import BASE, policy_folder


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy is exported, such as r004.")
@click.option("--overwrite", is_flag=True, help="Replace OUT where it exists.")
@click.argument("out", type=click.Path(path_type=Path))
def export(name: str, overwrite: bool, out: Path) -> None:
    """Merge the LoRA of a round into the base model and write it to the folder OUT."""
    import torch

    from ..models.checkpoint import attach_merged
    from ..models.loading import load_model, load_tokenizer

    folder = policy_folder(load_params(Path("params.yaml")), name)
    if out.exists() and not overwrite:
        raise PipelineError(f"{out}: exists already; choose another folder, or give --overwrite.")
    model = load_model(BASE, torch.device("cpu"), saved_dtype())
    attach_merged(model, folder)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        load_tokenizer(BASE).save_pretrained(partial)
    click.echo(f"{out}: {name} merged; load it with AutoModelForCausalLM.from_pretrained('{out}')")


def saved_dtype() -> "torch.dtype":  # type: ignore[name-defined]  # noqa: F821
    """Return the number format that the base model's weights are saved in."""
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(BASE, local_files_only=True).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
