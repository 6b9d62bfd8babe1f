"""What of a round leaves the project: a plain model, or a PEFT adapter that says which hub model it belongs to."""

from pathlib import Path
from typing import NamedTuple

from ..errors import PipelineError
from ..models.packaged import PACKAGED
from ..settings.params import Params
from ..storage.files import read_json, write_json
from .policies import BASE, base_folder, merged_model, policy_folder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


class HubBase(NamedTuple):
    """The hub model that policies start from; revision: None for the newest."""

    name: str
    revision: str | None


def hub_base(params: Params) -> HubBase | None:
    """Return the hub model that the policies start from; None for a packaged model, a local one, or one after `sft`."""
    name = params.base.model
    local = name in PACKAGED or name.endswith(".gguf") or "base" in params.sources or name.count("/") != 1
    return None if local or params.start != BASE.as_posix() else HubBase(name, params.base.revision)


def adapter_folder(params: Params, name: str, average: bool) -> Path:
    """Return the folder of a round's adapter; PipelineError where the whole model was trained, which has none."""
    folder = policy_folder(params, name, average)
    if not (folder / CONFIG).is_file():
        raise PipelineError(f"{folder}: policy.tuning is full, so there is no adapter; leave out --adapter.")
    return folder


def write_adapter(params: Params, adapter: Path, folder: Path) -> None:
    """Write the adapter with the tokenizer of its base to `folder`; its configuration names a base from the hub by id.

    The round's own folder stays as it is: its hash is the pipeline's.
    """
    from ..models.loading import load_tokenizer

    config, base = read_json(adapter / CONFIG), hub_base(params)
    if base is not None:
        config |= {"base_model_name_or_path": base.name, "revision": base.revision}
    load_tokenizer(base_folder(params)).save_pretrained(folder)
    (folder / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes())
    write_json(folder / CONFIG, config)


def write_model(params: Params, policy: Path, folder: Path) -> None:
    """Write the policy as a plain transformers model with its tokenizer, LoRA merged, to `folder`."""
    from ..models.loading import load_tokenizer

    base = base_folder(params)
    merged_model(base, policy).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
