"""The tiny llama model as a .gguf file, as llama.cpp's converter lays it out."""

from pathlib import Path

import gguf
from conftest import tiny_model, tiny_tokenizer


def save_gguf(path: Path) -> None:
    """Write model and tokenizer in fp32; queries and keys in llama.cpp's order of rotary pairs."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    special = set(tokenizer.all_special_ids)
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(config.vocab_size)))
    writer.add_token_types([3 if i in special else 1 for i in range(config.vocab_size)])  # control and normal tokens
    writer.add_token_scores([0.0] * config.vocab_size)  # there are no merges to go by
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if name == "lm_head.weight":
            continue  # tied
        if heads is not None:
            values = values.view(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
