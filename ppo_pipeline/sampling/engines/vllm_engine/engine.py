"""vLLM as an engine: its continuous batching and kernels, our draw (draw.py), our stop tokens and limits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ....compute import head
from ....errors import PipelineError
from ....models.adapter import attach_policy, read_adapter_config
from ....models.loading import read_source, readable, stop_ids_of
from ....models.reach import borders, check_reach
from ....models.trust import check_folder, code_allowed
from ....observe.counter import Counter
from ....resume.snapshots import Snapshots
from ....storage.files import read_json
from ...request import Request
from ...response import Response, check_numbers
from ..engine import Model, Sampling
from .installed import require_vllm
from .served import RANKS, served, told


class VllmEngine:
    """An Engine. All requests of a call are greedy, or all sampled."""

    def __init__(self, model: Model, sampling: Sampling) -> None:
        require_vllm()
        if sampling.batch_invariant:
            raise PipelineError(
                "engine: vllm: compute.batch_invariant samples with the training forward's own products, which vLLM "
                "has not; set that to false, or the engine to own."
            )
        if head.in_fp32():
            raise PipelineError(
                "engine: vllm: compute.head: fp32 is not there; set that to auto, or the engine to own."
            )
        whole = model.policy is not None and (model.policy / "config.json").is_file()
        folder = model.policy if whole and model.policy is not None else model.base
        described = _described(folder)
        rank = 0 if whole or model.policy is None else _rank(model.policy, model.base, described.config)
        self.folder, self.sampling = folder, sampling
        self.stop_ids = frozenset(stop_ids_of(described, model.tokenizer, sampling.stop_tokens))
        self.borders = borders(described)
        self.served = served(folder, model, sampling, rank, min((n for n, _ in self.borders), default=None))
        self.lora = self._adapter(model.policy) if rank and model.policy is not None else None

    def _adapter(self, policy: Path) -> Any:
        """Return the adapter, loaded."""
        from vllm.lora.request import LoRARequest

        self.served.adapters += 1  # never a number that an earlier one had, whose weights vLLM would take
        number = self.served.adapters
        lora = LoRARequest(f"policy-{number}", number, str(policy))
        with told(f"{policy}: vLLM cannot serve this adapter; set the engine to own"):
            self.served.llm.llm_engine.add_lora(lora)
        return lora

    def generate(
        self, requests: list[Request], counter: Counter | None = None, snapshots: Snapshots | None = None
    ) -> list[Response]:
        """Return the response to each request, in their order. It makes no snapshots: what is killed begins anew."""
        if not requests:
            return []
        longest = self.sampling.max_new_tokens
        check_reach(self.borders, max(len(request.prompt_ids) for request in requests) + longest, longest)
        counter = counter or Counter(len(requests))
        from .draw import begin, found

        uniforms = None
        if requests[0].uniforms is not None:
            uniforms = np.stack([request.uniforms[:longest] for request in requests])  # type: ignore[index]
        ids: dict[int, list[int]] = {}
        told_so = told(f"{self.folder}: vLLM cannot answer with this model; set the engine to own")
        with self.served.answering() as llm, told_so:
            llm.reset_prefix_cache()  # what earlier requests left there chooses no bit
            llm.collective_rpc(begin, args=(len(requests), longest, uniforms))
            for number, request in enumerate(requests):
                prompt = {"prompt_token_ids": list(request.prompt_ids)}
                llm.llm_engine.add_request(str(number), prompt, self._params(number), lora_request=self.lora)
            while llm.llm_engine.has_unfinished_requests():
                for output in llm.llm_engine.step():
                    number = int(output.request_id)
                    ids[number] = list(output.outputs[0].token_ids)
                    counter.advance(1, len(ids[number]))
            columns = llm.collective_rpc(found)[0]
        parts = [[column[number, : len(ids[number])] for column in columns] for number in range(len(requests))]
        check_numbers((logprobs for _, logprobs, _ in parts), self.folder)
        return [self._response(ids[number], *part) for number, part in enumerate(parts)]

    def _response(self, ids: list[int], drawn: Any, logprobs: Any, kept_mass: Any) -> Response:
        """Return a response; raise where vLLM's tokens are not those that were drawn for it, or fewer."""
        reason = "stop" if ids and ids[-1] in self.stop_ids else "length"
        whole = reason == "stop" or len(ids) == self.sampling.max_new_tokens
        if not whole or drawn.tolist() != ids:
            raise RuntimeError("vLLM gave other tokens than were drawn: its sampler is not as this engine knows it.")
        return Response(ids, logprobs.tolist(), kept_mass.tolist(), reason)

    def _params(self, number: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,  # it takes what draw.py has made the greatest
            max_tokens=self.sampling.max_new_tokens,
            ignore_eos=True,
            stop_token_ids=sorted(self.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"sample": number},
        )


def _rank(policy: Path, base: Path, config: Any) -> int:
    """Return the rank of an adapter of the model in `base`, whose configuration is given.

    Raises PipelineError for one that is too large for vLLM, and for one that is damaged or of another model: what vLLM
    finds no place for it leaves out in silence.
    """
    from transformers import AutoModelForCausalLM

    rank = int(read_adapter_config(policy)["r"])
    if rank > RANKS[-1]:
        raise PipelineError(
            f"{policy}: LoRA of rank {rank}; vLLM takes up to {RANKS[-1]}: lower policy.rank, or set the engine to own."
        )
    with readable(f"{base}: cannot be loaded as a causal language model"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=code_allowed(read_source(base)))
    attach_policy(model, policy)
    return rank


def _described(folder: Path) -> Any:
    """Return a model's configurations, as `stop_ids_of` and `borders` take them of one that is loaded."""
    from transformers import AutoConfig

    check_folder(folder, "model")
    with readable(f"{folder}: its configuration cannot be loaded"):
        trusted = code_allowed(read_source(folder))
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    own = folder / "generation_config.json"
    told_there = read_json(own) if own.is_file() else config.get_text_config().to_dict()
    generation = SimpleNamespace(eos_token_id=told_there.get("eos_token_id"))
    return SimpleNamespace(config=config, generation_config=generation)
