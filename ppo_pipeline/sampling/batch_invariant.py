"""A decoder whose numbers are those of the training forward, bit by bit, and so the same in every batch.

Prompts run by the training forward itself; a step's attention adds in its order; LoRA stays beside its base layer;
every product is row-invariant (native/row_invariant.py); a token's log probability is taken from its logits by the
training forward's kernel. What is learned from is then exactly what was sampled from: true on-policy sampling (He et
al. 2025, "Defeating Nondeterminism in LLM Inference").
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compute.native.operations import serves, token_logprobs
from ..errors import PipelineError
from ..models.acceleration import accelerate_forward, accelerate_model
from ..models.checkpoint import load_merged, load_unmerged
from ..models.four_bit import quantization_of
from ..models.logprobs import head_logits
from ..models.packed import attend_by_layout, can_pack
from ..models.policy import model_logprobs, pack
from ..models.prepacked import prepack_linears
from .decoder import Decoder
from .draw import Drawn
from .request import Request
from .streams import uniforms
from .trial import prompts_to_try

TRIED_TOKENS = 6


def load_sampler(
    base: Path, policy: Path, device: torch.device, dtype: torch.dtype, batch_invariant: bool
) -> tuple[Any, type[Decoder]]:
    """Return a round's policy, ready to be sampled from, and the decoder to do it with.

    Raises PipelineError for a device or model that cannot be decoded with in a batch-invariant way.
    """
    if not batch_invariant:
        if quantization_of(policy) is None:
            model = load_merged(base, policy, device, dtype, packed=True)
        else:  # merged, it would be larger or another model
            model = load_unmerged(base, policy, device, dtype)
        accelerate_model(model)
        return model, Decoder
    if not serves(device, dtype):
        raise PipelineError(
            "params.yaml: compute.batch_invariant: needs the project's own kernels, which are there on Linux CPUs with "
            f"a C compiler for bf16 and fp32, not for {str(dtype).removeprefix('torch.')} on this {device.type}; set "
            "it to false."
        )
    model = load_unmerged(base, policy, device, dtype)
    prepack_linears(model, training=True)
    accelerate_forward(model)
    check_batch_invariant(model)
    return model, BatchInvariantDecoder


class BatchInvariantDecoder(Decoder):
    """Decodes with a model whose LoRA is not merged, prepared as for the training forward."""

    def _runs_trees(self) -> bool:
        attend_by_layout(self.model)
        return True  # check_batch_invariant tries it

    def _logits(self, hidden: Tensor) -> Tensor:
        hidden = hidden.float() if self.wide else hidden
        return head_logits(hidden, self.head.weight, getattr(self.head, "bias", None))

    def _draw(self, active: list[Any], logits: Tensor) -> Drawn:
        drawn = super()._draw(active, logits)
        return drawn._replace(logprobs=token_logprobs(logits, drawn.tokens, self.temperature)[0])


@torch.inference_mode()
def check_batch_invariant(model: Any) -> None:
    """Raise PipelineError for a model whose parts do not all give the same bits in every batch: a trial tells."""
    failed = PipelineError(
        f"params.yaml: compute.batch_invariant: {type(model).__name__} has parts whose bits depend on the batch here; "
        "set it to false."
    )
    if not can_pack(model):
        raise failed
    prompts = prompts_to_try(model)
    requests = [Request(ids, uniforms(0, str(i), TRIED_TOKENS)) for i, ids in enumerate(prompts)]
    few, many = (
        BatchInvariantDecoder(model, (), TRIED_TOKENS, 1.0, slots).decode(requests) for slots in (2, len(prompts))
    )
    tensors = [torch.tensor(ids) for ids in prompts], [torch.tensor(c.ids) for c in many]
    expected = model_logprobs(model, pack(*tensors, 0, model.device, 0), 1.0)
    if few != many or expected.tolist() != [x for c in many for x in c.logprobs]:
        raise failed
