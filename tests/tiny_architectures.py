"""Tiny random models of architectures that have something of their own: experts, shared names, odd widths."""

from typing import Any

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1,
           "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}  # fmt: skip
LATENT = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "q_lora_rank": 8, "kv_lora_rank": 8}
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**EXPERTS, **LATENT, "head_dim": 4},
    "deepseek_v3": {**EXPERTS, **LATENT},
    "glm4_moe": {**EXPERTS, "head_dim": 8},
    "qwen2_moe": {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4,
                  "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "num_shared_expert": 1, "head_dim": 8},
    "laguna": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
               "shared_expert_intermediate_size": 16},
    "ctrl": {"n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 48},
    "bart": {"d_model": 32, "decoder_layers": 2, "encoder_layers": 1, "decoder_attention_heads": 4,
             "encoder_attention_heads": 4, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48},
    "mamba": {"state_size": 4},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip


def tiny_architecture(kind: str, **changes: Any) -> Any:
    """Return a random fp32 model of the type, the same at each call, in evaluation mode, its weights frozen."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SIZES, **OWN.get(kind, {}), **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # the default initialisation is so small that all tokens are nearly alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return model.requires_grad_(False).eval()
