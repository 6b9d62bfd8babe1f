"""The sizes of a Llama-like model (Llama, Mistral, Qwen2, Qwen3, SmolLM): what its memory depends on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PipelineError, nearest
from ...settings.params import Params

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Shape:
    """hidden, ffn: widths. heads, kv_heads, head_size: of attention. tied: the head is the token embeddings."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Return (in, out) of a block's linear layers by their path in the first block."""
        attention, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        of_attention = {"q": (self.hidden, attention), "k": (self.hidden, keys), "v": (self.hidden, keys)}
        of_attention["o"] = (attention, self.hidden)
        mlp = {"gate": (self.hidden, self.ffn), "up": (self.hidden, self.ffn), "down": (self.ffn, self.hidden)}
        block = "model.layers.0"
        return {f"{block}.self_attn.{name}_proj": sizes for name, sizes in of_attention.items()} | {
            f"{block}.mlp.{name}_proj": sizes for name, sizes in mlp.items()
        }

    @property
    def linear_weights(self) -> int:
        """Return the weights in the linear layers of all blocks."""
        return self.layers * sum(rows * columns for rows, columns in self.linear.values())

    @property
    def other_weights(self) -> int:
        """Return the weights of embeddings, head and norms; biases are too few to count."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    @property
    def weights(self) -> int:
        """Return all weights."""
        return self.linear_weights + self.other_weights

    def lora_weights(self, rank: int, targets: list[str] | str) -> int:
        """Return the weights of A and B on the layers that policy.target_modules names."""
        return self.layers * sum(rank * sum(self.linear[path]) for path in self.targeted(targets))

    def targeted(self, targets: list[str] | str) -> list[str]:
        """Return the paths in the first block that policy.target_modules names, by PEFT's rules."""
        if targets == "all-linear":
            return list(self.linear)
        if isinstance(targets, str):
            return [path for path in self.linear if re.fullmatch(targets, path)]
        return [path for path in self.linear if any(path == t or path.endswith(f".{t}") for t in targets)]


# The sizes that the models' own config.json files have.
KNOWN = {
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 64, 49152, True),
    "qwen2.5-0.5b": Shape(24, 896, 4864, 14, 2, 64, 151936, True),
    "qwen2.5-1.5b": Shape(28, 1536, 8960, 12, 2, 128, 151936, True),
    "qwen2.5-3b": Shape(36, 2048, 11008, 16, 2, 128, 151936, True),
    "qwen2.5-7b": Shape(28, 3584, 18944, 28, 4, 128, 152064, False),
    "qwen2.5-14b": Shape(48, 5120, 13824, 40, 8, 128, 152064, False),
}


def shape_of_config(config: dict[str, Any], where: str) -> Shape:
    """Return the shape that a config.json tells; PipelineError for a model that is not Llama-like."""
    config = config.get("text_config") or config
    if any(config.get(name) for name in EXPERTS):
        raise PipelineError(f"{where}: a model with experts, whose memory is not computed here.")
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return Shape(
            config["num_hidden_layers"], hidden, config["intermediate_size"], heads,
            config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads,
            config["vocab_size"], bool(config.get("tie_word_embeddings")),
        )  # fmt: skip
    except KeyError as missing:
        kind = config.get("model_type")
        raise PipelineError(
            f"{where}: no {missing}: memory is computed for models with Llama's layers, not for '{kind}'."
        ) from None


def shape_named(name: str) -> Shape:
    """Return the shape of the folder or config.json at `name`, or of a model in KNOWN; PipelineError without."""
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if path.name == "config.json" and path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PipelineError(f"{path}: damaged ({error}).") from None
        return shape_of_config(config, str(path))
    own = name.rsplit("/", 1)[-1].lower()
    for known in (own, own.removesuffix("-instruct")):
        if known in KNOWN:
            return KNOWN[known]
    raise PipelineError(
        f"{name}: no folder with a config.json, and none of {', '.join(KNOWN)}.{nearest(own, list(KNOWN))}"
    )


def shape_in_force(params: Params) -> tuple[str, Shape]:
    """Return the name and shape of the model that params.yaml trains; PipelineError where nothing here tells it."""
    name = params.base.model
    there = (folder for folder in (params.start, "data/base") if _is_of(Path(folder), params.base.model_dump()))
    try:
        return name, shape_named(next(there, name))
    except PipelineError as error:
        raise PipelineError(
            f"params.yaml: base.model: {error.message} Where it is not here yet, `dvc repro base` fetches it; or give "
            "--model another name."
        ) from None


def _is_of(folder: Path, base: dict[str, Any]) -> bool:
    """Tell whether a model is there, and was made of the base that params.yaml names now."""
    try:
        source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        origin = source.get("base", source)  # of data/sft/NAME
        return (folder / "config.json").is_file() and all(origin[key] == base[key] for key in ("model", "revision"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
