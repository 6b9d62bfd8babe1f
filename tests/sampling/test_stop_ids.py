"""The ids that end a response: the model's, the tokenizer's and those of rollout.stop_tokens."""

import pytest
from conftest import tiny_model, tiny_tokenizer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.loading import stop_ids_of

END, USER = 257, 258


def test_without_more_they_are_the_model_s_and_the_tokenizer_s() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert stop_ids_of(model, tokenizer) == [END]
    model.generation_config.eos_token_id = [7, 3]
    assert stop_ids_of(model, tokenizer) == [3, 7, END]
    model.generation_config.eos_token_id = None
    assert stop_ids_of(model, tokenizer) == [END]
    tokenizer.eos_token = None
    assert stop_ids_of(model, tokenizer) == []


def test_a_special_token_and_a_text_of_one_token_are_added() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert stop_ids_of(model, tokenizer, ["<|user|>", "\n"]) == sorted([END, USER, *newline])
    assert stop_ids_of(model, tokenizer, ["<|end|>", "<|end|>"]) == [END]


@pytest.mark.parametrize(("text", "count"), [("ab", 2), ("é", 2), ("Ċ", 2), ("", 0), ("<|user|>a", 2)])
def test_any_other_text_is_an_error_that_names_the_setting(text: str, count: int) -> None:
    """é and Ċ are in the vocabulary, but as names of the bytes E9 and 0A."""
    with pytest.raises(PipelineError) as caught:
        stop_ids_of(tiny_model("llama"), tiny_tokenizer(), ["<|user|>", text])
    expected = f"params.yaml: rollout.stop_tokens: {text!r} is {count} tokens to this model; it must be one."
    assert caught.value.message == expected
