"""How far a model's positions and its attention reach: beyond, it cannot run, or decodes other than it reads."""

from typing import Any

from ..errors import PipelineError
from .loading import text_config

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_window_size",
    "local_attention",
    "attention_chunk_size",
    "window_size",
)
# Rotary embeddings that turn all positions otherwise, those cached too, once a sequence is longer than this.
CHANGING_ROPES = ("longrope", "dynamic")


def sliding_window(model: Any) -> int | None:
    """Return how far back the model's attention reaches, None where it sees everything."""
    config = text_config(model)
    if not getattr(config, "use_sliding_window", True) or set(getattr(config, "attention_layers", ())) == {"global"}:
        return None
    return min(
        (size for name in WINDOWS if type(size := getattr(config, name, None)) is int and size > 0), default=None
    )


def borders(model: Any) -> list[tuple[int, str]]:
    """Return numbers of tokens that no sequence may exceed, each with what it is, as in `the model has 96 ...`."""
    config = text_config(model)
    found = []
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if positions is not None and positions > 0:  # XLNet's -1: any number
        found.append((positions, ""))
    window = sliding_window(model)
    if window is not None:
        found.append((window, " in its attention window"))
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type"))
        border = rope.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
        if kind in CHANGING_ROPES and border is not None:
            found.append((border, f" up to where its rotary embedding ({kind}) changes"))
    return found


def check_reach(borders: list[tuple[int, str]], longest: int, max_new_tokens: int) -> None:
    """Raise PipelineError where a prompt and its response, of `longest` tokens together, exceed one of `borders`."""
    for limit, what in borders:
        if longest > limit:
            raise PipelineError(
                f"a prompt and {max_new_tokens} new tokens make {longest} positions, the model has {limit}"
                f"{what}; lower max_new_tokens or shorten the prompts."
            )


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Return the parameters of each kind of rotary embedding, of which layers may have their own."""
    ropes = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [ropes, *(part for part in ropes.values() if isinstance(part, dict))]
