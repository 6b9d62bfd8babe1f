"""The decoder's state between two steps, to and from a snapshot: all that its next step depends on, bit by bit.

The cache is kept too: keys and values that a prefill computed anew would differ by rounding, and with them the text.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ..resume.snapshots import Snapshots
from .cache import SlotCache
from .response import Response

LISTS = {"ids": np.int32, "logprobs": np.float32, "kept_mass": np.float32}


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
        lengths = np.array([len(c.ids) for c in responses], np.int32)
        columns = {name: [x for c in responses for x in getattr(c, name)] for name in LISTS}
        arrays = {name: np.array(column, LISTS[name]) for name, column in columns.items()}
        save_arrays({"lengths": lengths, **arrays}, folder / "responses.safetensors")
        stopped = [c.finish_reason == "stop" for c in responses]
        order = {"waiting": waiting, "active": active, "stopped": stopped, "prefix_length": cache.prefix_length}
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
        ends = np.cumsum(arrays["lengths"])[:-1]
        columns = {name: np.split(arrays[name], ends) for name in LISTS}
        for place, response in enumerate(responses):
            for name, parts in columns.items():
                setattr(response, name, parts[place].tolist())
            response.finish_reason = "stop" if order["stopped"][place] else "length"
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
