"""Processes with gloo between them, each a rank of torch.distributed, that call functions of a module of tests."""

import importlib
import multiprocessing
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ppo_pipeline.training.ranks import ProcessRanks


def on_ranks(module: str, size: int, folder: Path, calls: list[list[Any]]) -> list[list[Any]]:
    """Make calls [function of the module, *arguments] on `size` processes; return what each call gave, by rank.

    The argument "ranks" stands for the process's ProcessRanks.
    """
    folder.mkdir()
    # Forks of a process that has the slow imports alone.
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed.fsdp", "transformers.modeling_utils"])
    arguments = (module, size, str(folder), calls)
    torch.multiprocessing.start_processes(_work, arguments, size, start_method="forkserver")
    return [[torch.load(folder / f"{place}.{rank}.pt") for rank in range(size)] for place in range(len(calls))]


def _work(rank: int, module: str, size: int, folder: str, calls: list[list[Any]]) -> None:
    torch.set_num_threads(1)
    soon = timedelta(minutes=5)  # where ranks decide differently, some wait in vain
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", soon, size, rank)
    functions = vars(importlib.import_module(module))
    try:
        for place, (name, *rest) in enumerate(calls):
            found = functions[name](*(ProcessRanks() if a == "ranks" else a for a in rest))
            torch.save(found, Path(folder, f"{place}.{rank}.pt"))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        torch.distributed.destroy_process_group()
