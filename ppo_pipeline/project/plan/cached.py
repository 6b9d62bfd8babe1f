"""How much of each round lies in DVC's cache."""

from pathlib import Path, PurePosixPath
from typing import Any

from ..paths import Paths


def cached_bytes(repo: Any) -> dict[str, int]:
    """Return for each round the bytes of those outputs in data/rounds/<round>/ whose content is in the local cache.

    A folder counts where its listing is there. `repo` is DVC's.
    """
    sizes: dict[str, int] = {}
    for stage in repo.index.stages:
        for out in stage.outs:
            parts = PurePosixPath(Path(out.fs_path).relative_to(repo.root_dir).as_posix()).parts
            if parts[:2] != Paths().rounds.parts or len(parts) < 3 or not out.hash_info:
                continue
            if Path(repo.cache.local.oid_to_path(out.hash_info.value)).is_file():
                sizes[parts[2]] = sizes.get(parts[2], 0) + (out.meta.size or 0)
    return sizes
