"""`ppo-pipeline export`: a round's policy as a plain transformers model, or as a PEFT adapter."""

from pathlib import Path

import click

from ..errors import PipelineError
from ..project.policies import base_folder, policy_folder
from ..settings.params import Params, load_params
from ..storage.files import atomic_folder
from .round_named import round_named

MODELS = ("data/base", "data/sft")
MODEL_FILES = ("config.json", "adapter_config.json")


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy is exported, such as r004; or best.")
@click.option("--overwrite", is_flag=True, help="Replace OUT where it is a model folder already.")
@click.option("--average", is_flag=True, help="The mean of the last rounds' policies: update.average_rounds.")
@click.option("--adapter", is_flag=True, help="The LoRA alone, as a PEFT folder, with the tokenizer.")
@click.argument("out", type=click.Path(path_type=Path))
def export(name: str, overwrite: bool, average: bool, adapter: bool, out: Path) -> None:
    """Merge the LoRA of a round into the base model and write it to the folder OUT."""
    params = load_params(Path("params.yaml"))
    name = round_named(params, name)
    policy_folder(params, name, average)
    check_target(out, overwrite)
    base_folder(params)
    with atomic_folder(out.resolve()) as partial:
        write(params, name, average, adapter, partial)
    what = f"the average at {name}" if average else name
    click.echo(f"{out}: {what} {how_to_load(params, adapter, str(out))}")


def write(params: Params, name: str, average: bool, adapter: bool, folder: Path) -> None:
    """Write a round's policy to `folder`: a whole model, or the adapter alone."""
    from ..project.published import adapter_folder, write_adapter, write_model

    if adapter:
        write_adapter(params, adapter_folder(params, name, average), folder)
    else:
        write_model(params, policy_folder(params, name, average), folder)


def how_to_load(params: Params, adapter: bool, where: str) -> str:
    """Return what to call; an adapter whose base no hub has needs this project's."""
    from ..project.published import hub_base

    if not adapter:
        return f"merged; load it with AutoModelForCausalLM.from_pretrained({where!r})"
    if hub_base(params) is not None:
        return f"as an adapter; load it with AutoPeftModelForCausalLM.from_pretrained({where!r})"
    return f"as an adapter of the model in {params.start}: PeftModel.from_pretrained(that model, {where!r})"


def check_target(out: Path, overwrite: bool) -> None:
    """Raise PipelineError where writing to `out` would lose something.

    Replacing a folder deletes all that is in it. So --overwrite takes a model folder only: an empty one, or one
    with a model's or an adapter's configuration and no folder inside; none of this project's own.
    """
    if any(out.resolve().is_relative_to(Path(folder).resolve()) for folder in MODELS):
        raise PipelineError(f"{out}: is a base model of this project; choose another folder.")
    if out.resolve().is_relative_to(Path("data/rounds").resolve()):
        raise PipelineError(f"{out}: is among this project's rounds; choose another folder.")
    if not out.exists():
        return
    if not overwrite:
        raise PipelineError(f"{out}: exists already; choose another folder, or give --overwrite.")
    entries = list(out.iterdir()) if out.is_dir() else [out]
    is_model = any((out / file).is_file() for file in MODEL_FILES) and not any(entry.is_dir() for entry in entries)
    if entries and not is_model:
        raise PipelineError(f"{out}: is no model folder, --overwrite would delete what is there; choose another.")
