"""A small random model of any causal language model type that transformers has, by its own config with small sizes."""

from typing import Any

VOCABULARY = 272
POSITIONS, WINDOW = 256, 96
START, END = 256, 257
STANDARD_DEVIATION = 0.15  # of each weight matrix; transformers' own 0.02 makes all tokens nearly alike

# What sizes are called, in one architecture or another. A size that a config leaves open (None) stays open.
SIZES: dict[str, tuple[str, ...] | str] = {
    "64": "hidden_size n_embd d_model dim embed_dim embedding_size",
    "2": "num_key_value_heads num_kv_heads n_head_kv kv_n_heads num_experts_per_tok num_experts_per_token moe_topk "
    "moe_top_k top_k_experts moe_k",
    "4": "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "n_routed_experts num_local_experts moe_num_experts",
    "16": "head_dim kv_channels attention_head_dim qk_nope_head_dim v_head_dim global_head_dim swa_head_dim "
    "index_head_dim",
    "8": "qk_rope_head_dim",
    "24": "qk_head_dim",
    "32": "q_lora_rank kv_lora_rank moe_intermediate_size shared_expert_intermediate_size "
    "moe_shared_expert_intermediate_size expert_ffn_hidden_size",
    "96": "intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size "
    "intermediate_size_mlp",
    "1": "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace moe_num_shared_experts",
}
LAYERS = (
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers num_decoder_layers"
).split()
LENGTHS = "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length context_length".split()
WINDOWS = "sliding_window window_size attention_window local_attention attention_chunk_size sliding_window_size".split()
DROPOUTS = ("dropout", "drop", "pdrop")
BY_NAME = {name: int(size) for size, names in SIZES.items() for name in names.split()}

# What the rules above cannot know of a type.
OWN: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "opt": {"word_embed_proj_dim": 32},
    "olmo": {"clip_qkv": 1.0},
    "granite": {"logits_scaling": 8.0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "zamba": {"num_hidden_layers": 2, "layers_block_type": ["linear_attention", "hybrid"]},
    "zamba2": {"num_hidden_layers": 2, "layers_block_type": ["linear_attention", "hybrid"]},
    "xmod": {"pad_token_id": 1, "default_language": "en_XX"},
    "bailing_hybrid": {"num_experts": 8, "n_group": 1, "num_expert_group": 1},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 32,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 1000,
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
}
PADDING_IDS = "camembert data2vec-text prophetnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl".split()
OWN |= {kind: {"pad_token_id": 1} for kind in PADDING_IDS}  # their positions count from it


def tiny_config(kind: str, **changes: Any) -> Any:
    """Return the type's config, its own defaults but for sizes and `changes`."""
    from transformers import CONFIG_MAPPING

    return _reduced(CONFIG_MAPPING[kind], OWN.get(kind, {}) | changes)


def _reduced(cls: Any, own: dict[str, Any]) -> Any:
    default = cls()
    values = default.to_dict()
    kinds = list(dict.fromkeys(values.get("layer_types") or ()))
    layers = max(2, len(kinds))
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and hasattr(part := getattr(default, name), "model_type"):
            changed[name] = _reduced(type(part), {}).to_dict()
        elif name == "layer_types" and kinds:
            changed[name] = (kinds * layers)[:layers]
        elif name == "vocab_size":
            changed[name] = VOCABULARY
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif name in LAYERS:
            changed[name] = layers
        elif name in LENGTHS:
            changed[name] = POSITIONS
        elif name in WINDOWS:
            changed[name] = WINDOW
        elif name in BY_NAME:
            changed[name] = BY_NAME[name]
    if "qk_rope_head_dim" in changed:  # multi-head latent attention: no shared keys, rotary embedding of a part
        changed |= {"head_dim": changed["qk_rope_head_dim"], "num_key_value_heads": 4}
    changed |= {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    return cls(**{**changed, **own})


def tiny_model(kind: str, **changes: Any) -> Any:
    """Return a random fp32 model of the type, the same at each call."""
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(kind, **changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std().item() if parameter.ndim > 1 else 0.0
            if 0 < spread < STANDARD_DEVIATION:
                parameter.mul_(STANDARD_DEVIATION / spread)
    return model.eval()


def byte_tokenizer() -> Any:
    """Return a tokenizer of 256 bytes, a start and an end token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<s>", "<|end|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>"
    )
