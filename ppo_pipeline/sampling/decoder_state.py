"""The decoder's state between two steps, to and from a snapshot: all that its next step depends on, bit by bit.

The cache is kept too: keys and values that a prefill computed anew would differ by rounding, and with them the text.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ..resume.snapshots import Snapshots
from .cache import SlotCache
from .response import Response, joined, parted


@dataclass(frozen=True)
class Resumed:
    """waiting: how many requests have not been started. active: which ones are in the slots, in their order."""

    waiting: int
    active: list[int]


def save_state(
    snapshots: Snapshots, responses: list[Response], cache: SlotCache, waiting: int, active: list[int], width: int
) -> None:
    """Make a snapshot: what was drawn so far, who is in which slot, and the first `width` positions of the cache."""

    def write(folder: Path) -> None:
        save_arrays(joined(responses), folder / "responses.safetensors")
        order = {"waiting": waiting, "active": active, "prefix_length": cache.prefix_length}
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        for number, (keys, values) in enumerate(cache.prefix):
            save_file({"keys": keys.contiguous(), "values": values.contiguous()}, folder / f"prefix-{number}")
        for number, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):  # a layer at a time
            used = {"keys": keys[: len(active), :, :width], "values": values[: len(active), :, :width]}
            save_file({name: t.contiguous() for name, t in used.items()}, folder / f"layer-{number}")

    snapshots.save(write)


def load_state(
    snapshots: Snapshots, responses: list[Response], cache: SlotCache, device: torch.device
) -> Resumed | None:
    """Fill `responses` and the empty `cache` from the newest snapshot; None where there is none."""
    found: list[Resumed] = []

    def read(folder: Path) -> str:
        arrays = load_arrays(folder / "responses.safetensors")
        order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
        prefix = [load_file(path, str(device)) for path in _numbered(folder, "prefix")]
        layers = [load_file(path, str(device)) for path in _numbered(folder, "layer")]
        for response, kept in zip(responses, parted(arrays), strict=True):
            vars(response).update(vars(kept))
        cache.prefix = [(layer["keys"], layer["values"]) for layer in prefix]
        cache.prefix_length = order["prefix_length"]
        for layer in layers:
            cache.restore(layer["keys"], layer["values"])
        found.append(Resumed(order["waiting"], order["active"]))
        done = len(responses) - order["waiting"] - len(order["active"])
        return f"{done} of {len(responses)} responses done, {len(order['active'])} begun"

    snapshots.load(read)
    return found[0] if found else None


def _numbered(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-*"), key=lambda path: int(path.name.split("-")[1]))
