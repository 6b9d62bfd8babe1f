"""`ppo-pipeline export`: a round's policy as a plain transformers model."""

from pathlib import Path

import click

from ..errors import PipelineError
from ..settings.params import load_params
from ..storage.files import atomic_folder
from .policies import base_folder, policy_folder
from .round_named import round_named

MODELS = ("data/base", "data/sft")


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy is exported, such as r004; or best.")
@click.option("--overwrite", is_flag=True, help="Replace OUT where it is a model folder already.")
@click.option("--average", is_flag=True, help="The mean of the last rounds' policies: update.average_rounds.")
@click.argument("out", type=click.Path(path_type=Path))
def export(name: str, overwrite: bool, average: bool, out: Path) -> None:
    """Merge the LoRA of a round into the base model and write it to the folder OUT."""
    import torch

    from ..models.checkpoint import load_merged
    from ..models.loading import load_tokenizer

    params = load_params(Path("params.yaml"))
    name = round_named(params, name)
    folder = policy_folder(params, name, average)
    check_target(out, overwrite)
    base = base_folder(params)
    model = load_merged(base, folder, torch.device("cpu"), saved_dtype(base))
    with atomic_folder(out.resolve()) as partial:
        model.save_pretrained(partial)
        load_tokenizer(base).save_pretrained(partial)
    what = f"the average at {name}" if average else name
    click.echo(f"{out}: {what} merged; load it with AutoModelForCausalLM.from_pretrained({str(out)!r})")


def check_target(out: Path, overwrite: bool) -> None:
    """Raise PipelineError where writing to `out` would lose something.

    Replacing a folder deletes all that is in it. So --overwrite takes a model folder only: an empty one, or one
    with a config.json and no folder inside. The base model is one too, and the rounds are trained on it.
    """
    if any(out.resolve().is_relative_to(Path(folder).resolve()) for folder in MODELS):
        raise PipelineError(f"{out}: is a base model of this project; choose another folder.")
    if not out.exists():
        return
    if not overwrite:
        raise PipelineError(f"{out}: exists already; choose another folder, or give --overwrite.")
    entries = list(out.iterdir()) if out.is_dir() else [out]
    is_model = (out / "config.json").is_file() and not any(entry.is_dir() for entry in entries)
    if entries and not is_model:
        raise PipelineError(f"{out}: is no model folder, --overwrite would delete what is there; choose another.")


def saved_dtype(base: Path) -> "torch.dtype":  # type: ignore[name-defined]  # noqa: F821
    """Return the dtype that the weights of the model at `base` are saved in."""
    import torch
    from transformers import AutoConfig

    from ..models.loading import read_source
    from ..models.trust import code_allowed

    trusted = code_allowed(read_source(base))
    dtype = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=trusted).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
