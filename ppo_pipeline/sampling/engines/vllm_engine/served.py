"""vLLM with a model loaded, within this process, until nothing uses it."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from ....errors import PipelineError
from ....models.loading import read_source, readable
from ....models.trust import code_allowed
from ....settings.sections import Vllm
from ..engine import Model, Sampling

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of LoRA, that vLLM has room for
CPU_CACHE = 2 << 30  # bytes for keys and values, unless VLLM_CPU_KVCACHE_SPACE is set; what finds no room there waits
DEFAULT = Vllm(tensor_parallel=1, gpu_memory=0.9)
NEEDED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: its memory goes when the stage ends
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the first one has the logits processors that draw.py is
}
ENVIRONMENT = {  # unless it is set
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # compute.threads says how many, and other workers have theirs
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
INVARIANT_FROM = (9, 0)  # compute capability of the GPUs on which vLLM can compute a row alike in every batch


class Served:
    """A vLLM and what it was made of. room: the largest rank of LoRA that it takes; 0: none. llm: None once closed.

    An engine of the base and one of an adapter share one, where both are in use.
    """

    open = 0  # those of this process, which have one state of vLLM's for what they are spread over

    def __init__(self, folder: Path, model: Model, sampling: Sampling, room: int, positions: int | None) -> None:
        self.room, self.adapters = room, 0
        self.llm: Any = None
        Served.open += 1  # before it loads: another may be closed meanwhile
        try:
            self.llm = _load(folder, model, sampling, room, positions)
        except BaseException:
            Served.open -= 1
            raise

    @contextmanager
    def answering(self) -> Iterator[Any]:
        """Yield vLLM. Where the block breaks off, as with Ctrl-C, requests are half done: it is closed."""
        if self.llm is None:
            raise RuntimeError("An earlier call of this vLLM was broken off; open the engine anew.")
        try:
            yield self.llm
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the memory, a GPU's too: reward models may come next."""
        if self.llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        Served.open -= 1
        client, self.llm = self.llm.llm_engine.engine_core, None
        if Served.open:  # its whole shutdown would take from the others what they share
            client._finalizer.detach()
            client.engine_core.model_executor.shutdown()
            return
        client.shutdown()
        del client
        cleanup_dist_env_and_memory()

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close it. ending: whether the process ends, which does so by itself; its modules are emptied then."""
        if not ending():
            self.close()


_in_use: WeakValueDictionary[tuple[Any, ...], Served] = WeakValueDictionary()


def served(folder: Path, model: Model, sampling: Sampling, rank: int, positions: int | None) -> Served:
    """Return a vLLM that serves the model in `folder`, with room for LoRA of this rank (0: none).

    positions: the longest sequence that the model takes, None for any. Raises PipelineError where vLLM cannot.
    """
    key = (folder, model.device, model.dtype, sampling)
    found = _in_use.get(key)
    if found is None or found.llm is None or found.room < rank:
        room = next(allowed for allowed in (0, *RANKS) if allowed >= rank)
        _in_use[key] = found = Served(folder, model, sampling, room, positions)
    return found


@contextmanager
def told(problem: str) -> Iterator[None]:
    """Turn what vLLM raises about a model into a PipelineError of one line; keep its warnings to itself."""
    with readable(problem), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(folder: Path, model: Model, s: Sampling, room: int, positions: int | None) -> Any:
    cpu, how = model.device.type == "cpu", s.vllm or DEFAULT
    _import(model, cpu)
    from vllm import LLM

    asked = None if s.max_prompt_tokens is None else s.max_prompt_tokens + s.max_new_tokens
    lora = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": room} if room else {}
    set_threads = torch.set_num_threads  # vLLM's worker on CPUs puts it out of order
    try:
        with told(f"{folder}: vLLM cannot serve this model here"):
            return LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                trust_remote_code=code_allowed(read_source(folder)),
                dtype=str(model.dtype).removeprefix("torch."),
                load_format="safetensors",  # nothing pickled
                max_model_len=min((n for n in (positions, asked) if n is not None), default=None),
                max_num_seqs=s.batch_size,
                tensor_parallel_size=how.tensor_parallel,
                distributed_executor_backend="mp" if how.tensor_parallel > 1 else "uni",
                gpu_memory_utilization=how.gpu_memory,
                kv_cache_memory_bytes=CPU_CACHE if cpu else None,
                enforce_eager=cpu,
                async_scheduling=False,  # draw.py counts the tokens that are there
                enable_prefix_caching=True,  # samples of a prompt share its prefill
                generation_config="vllm",  # none of the model's own ways of sampling
                logits_processors=["ppo_pipeline.sampling.engines.vllm_engine.draw:DrawProcessor"],
                additional_config={"ppo_pipeline": {"temperature": s.temperature, "truncation": astuple(s.truncation)}},
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
                **lora,
            )
    finally:
        torch.set_num_threads = set_threads


def _import(model: Model, cpu: bool) -> None:
    """Import vLLM; raise PipelineError where it does not come, or is built for another kind of device."""
    os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ} | NEEDED
    if not cpu and torch.cuda.get_device_capability(model.device) >= INVARIANT_FROM:
        os.environ.setdefault("VLLM_BATCH_INVARIANT", "1")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns before it reads VLLM_LOGGING_LEVEL
    # In a thread: it keeps errors that it meets meanwhile, with their frames and all frames below those, which here
    # would keep their caller's engine in memory for ever.
    says = "engine: vllm: vLLM does not import here (docs/vllm.md says what it needs)"
    with told(says), ThreadPoolExecutor(1) as thread:
        current_platform = thread.submit(_first_import).result()
    if current_platform.is_cpu() != cpu:
        raise PipelineError(
            f"engine: vllm: compute.device is {model.device.type} here, and the vLLM that is installed is built for "
            f"{current_platform.device_type or 'no device here'}; install the other one, or set the engine to own."
        )


def _first_import() -> Any:
    """Import what takes vLLM's parts along; return what it says of the machine."""
    from vllm import LLM, SamplingParams  # noqa: F401
    from vllm.lora.request import LoRARequest  # noqa: F401
    from vllm.platforms import current_platform

    return current_platform
