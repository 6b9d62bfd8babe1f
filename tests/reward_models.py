"""Small real reward models with their tokenizers, made at test time."""

from pathlib import Path
from typing import Any

import torch
from conftest import CHAT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;?!<>|_-'\n"
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
POSITIONS = 96
SIZES: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "num_attention_heads": 2, "intermediate_size": 48, "relative_attention": True, "position_buckets": 8,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
        "position_biased_input": False,
    },
    "bert": {"num_attention_heads": 2, "intermediate_size": 48, "type_vocab_size": 2},
    "llama": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48, "head_dim": 16},
}  # fmt: skip


def reward_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a tokenizer of single characters: [CLS] first [SEP] second [SEP], as BERT and DeBERTa have it."""
    words = {word: i for i, word in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    fast.chat_template = chat_template
    return fast


def save_reward_model(
    folder: Path, architecture: str = "deberta-v2", labels: int = 1, chat_template: str | None = CHAT_TEMPLATE,
    **config: Any,
) -> Path:  # fmt: skip
    """Write a random 2-layer classifier with its tokenizer as a plain transformers folder."""
    values = {
        "vocab_size": len(SPECIAL) + len(CHARACTERS), "hidden_size": 32, "num_hidden_layers": 2, "num_labels": labels,
        "max_position_embeddings": POSITIONS, "pad_token_id": 0, **SIZES[architecture], **config,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(architecture, **values))
    with torch.no_grad():  # the default initialisation is so small that all texts score nearly alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10.0)
    model.save_pretrained(folder)
    reward_tokenizer(chat_template).save_pretrained(folder)
    return folder
