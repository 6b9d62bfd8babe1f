"""Run what lies between the matrix products of a model's layers by kernels of our own on CPUs, by fewer ones on GPUs.

A part is replaced where its class is known and the first of its kind then gives, on random numbers, what it gave
before; any other stays as transformers has it. Parameters, their names and LoRA beside them are not touched.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..compute.native.operations import LANES, rms_norm, rotary, serves, silu_times
from .loading import backbone_of, text_config
from .reach import sliding_window

ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
TOKENS = 9  # of the comparison


class _Norm:
    """RMSNorm."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, hidden_states: Tensor) -> Tensor:
        weight, eps = self.module.weight, self.module.variance_epsilon
        if hidden_states.device.type == "cpu":
            return rms_norm(hidden_states, weight, eps)
        return functional.rms_norm(hidden_states, weight.shape, weight, eps)


class _GatedMlp:
    """down(silu(gate(x)) up(x))."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        m = self.module
        y: Tensor = m.down_proj(silu_times(m.gate_proj(x), m.up_proj(x)))
        return y


class _Attention:
    """Projections, rotary embedding and attention as in transformers' Llama; a decoding step goes to its cache."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        m = self.module
        # By its type: its name is `past_key_values`, since transformers 5.24 `cache`.
        cache: Any = next((more.pop(name) for name in list(more) if isinstance(more[name], Cache)), None)
        shape = (*hidden_states.shape[:-1], -1, m.head_dim)
        q, k, v = (project(hidden_states).view(shape) for project in (m.q_proj, m.k_proj, m.v_proj))
        if hasattr(m, "q_norm"):
            q, k = m.q_norm(q), m.k_norm(k)
        cosine, sine = (x.expand(len(q), -1, -1) for x in position_embeddings)
        on_cpu = q.device.type == "cpu"
        if on_cpu:
            cosine, sine = cosine.contiguous(), sine.contiguous()
        if on_cpu and getattr(cache, "stepping", False):
            out = cache.attend(m.layer_idx, q, k, v, cosine, sine, m.scaling)
        else:
            q, k, v = (x.transpose(1, 2) for x in (rotary(q, cosine, sine), rotary(k, cosine, sine), v))
            if cache is not None:
                k, v = cache.update(k, v, m.layer_idx)
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(m.config._attn_implementation, sdpa_attention_forward)
            dropout = m.attention_dropout if m.training else 0.0
            out, _ = attend(m, q, k, v, attention_mask, dropout=dropout, scaling=m.scaling, **more)
        return m.o_proj(out.reshape(*hidden_states.shape[:-1], -1).contiguous()), None


@torch.no_grad()
def use_native_layers(model: Any) -> None:
    """Replace what can be replaced in a causal language model; nothing without kernels for its device and format."""
    on_gpu = model.device.type == "cuda"
    if not on_gpu and not serves(model.device, model.dtype):
        return
    backbone, window = backbone_of(model), sliding_window(model)
    generator = torch.Generator().manual_seed(0)
    tried: dict[tuple[Any, ...], bool] = {}
    forward: _Norm | _GatedMlp | _Attention
    for module in backbone.modules():
        kind, names = type(module).__name__, {name for name, _ in module.named_children()}
        if any(p.dtype != model.dtype for p in module.parameters(recurse=False)):
            continue  # the kernels read every number in the model's format
        if kind.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            width = module.weight.shape[-1]
            forward, inputs = _Norm(module), {"hidden_states": _random(model, width, generator)}
        elif on_gpu and kind not in ATTENTIONS:
            continue  # torch's operations are as few
        elif names == {"gate_proj", "up_proj", "down_proj", "act_fn"} and "SiLU" in type(module.act_fn).__name__:
            width = text_config(model).hidden_size
            forward, inputs = _GatedMlp(module), {"x": _random(model, width, generator)}
        elif kind in ATTENTIONS and hasattr(backbone, "rotary_emb") and module.head_dim % LANES == 0 and not window:
            width = text_config(model).hidden_size
            hidden = _random(model, width, generator)
            turns = backbone.rotary_emb(hidden, torch.arange(TOKENS, device=model.device)[None])
            inputs = {"hidden_states": hidden, "position_embeddings": turns, "attention_mask": None}
            forward = _Attention(module)
        else:
            continue
        key = (type(module), width)
        if key not in tried:
            tried[key] = _same(module.forward, forward, inputs)
        if tried[key]:
            module.forward = forward


def _random(model: Any, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(1, TOKENS, width, generator=generator).to(model.device, model.dtype)


def _same(old: Any, new: Any, inputs: dict[str, Any]) -> bool:
    """Tell whether two forwards give the same but for rounding."""
    before, after = (forward(**inputs) for forward in (old, new))
    if isinstance(before, tuple):
        before, after = before[0], after[0]
    error = torch.linalg.vector_norm((after - before).float()) / torch.linalg.vector_norm(before.float())
    return bool(error <= (1e-5 if before.dtype == torch.float32 else 0.02))
