"""What a model's folder may make transformers do: run its Python code, fetch other files (docs/security.md)."""

import json
from pathlib import Path
from typing import Any

from ..errors import PipelineError

KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def code_allowed(source: dict[str, Any]) -> bool:
    """Tell whether Python code that a model brought along may run. source: the source.json beside the model.

    The stage `base` wrote there whether it was allowed to. But that file comes with the folder, which `dvc pull` may
    have brought or which may be another project's, so params.yaml of the working folder has to allow it as well.
    """
    return source.get("trust_remote_code") is True and _params_allow(Path("params.yaml"))


def _params_allow(path: Path) -> bool:
    from ..settings.yaml_file import read_map

    base = read_map(path, "sections with settings").get("base") if path.is_file() else None
    return isinstance(base, dict) and base.get("trust_remote_code") is True


def check_folder(folder: Path, where: str) -> None:
    """Raise PipelineError for a model folder that has transformers load more than the folder's own weights.

    An adapter_config.json: with PEFT installed the adapter is loaded too, and may name another base model on the hub.
    The name of a hub repository as attention implementation: with `kernels` installed native code is fetched and run.
    """
    if (folder / "adapter_config.json").is_file():
        raise PipelineError(
            f"{where}: {folder} has an adapter_config.json, which transformers applies or not, depending on what is "
            "installed; merge the adapter into its base model, or remove that file to have the model without it."
        )
    if not (folder / "config.json").is_file():
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{where}: {folder}/config.json: not valid JSON: {error}") from None
    kernel = _kernel(config)
    if kernel is not None:
        raise PipelineError(
            f"{where}: {folder}/config.json asks for the code of '{kernel}' (a setting *_implementation); remove that "
            "entry."
        )


def _kernel(value: Any) -> str | None:
    """Return the first hub repository that stands as an implementation in a configuration or its parts."""
    if not isinstance(value, dict):
        return None
    for name, item in value.items():
        if name in KERNELS:
            texts = item.values() if isinstance(item, dict) else [item]
            found = next((text for text in texts if isinstance(text, str) and "/" in text), None)
        else:
            found = _kernel(item)
        if found is not None:
            return found
    return None


def advice(error: Exception) -> str:
    """Return what to do about an error of transformers, empty where it says so itself."""
    if "trust_remote_code" not in str(error):
        return ""
    return " In params.yaml that is `base.trust_remote_code: true`; read the code first, it runs with all your rights."
