"""Stage `base`: a tokenizer that is none, or another model's, is refused; what would cut every response is said."""

from pathlib import Path

import pytest
from conftest import save_tiny, tiny_model, tiny_tokenizer
from test_base import settings
from tokenizers import normalizers

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import base
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.loading import rows_of, vocabulary_of
from ppo_pipeline.models.tokenizer import check_tokenizer


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_folder_without_a_tokenizer_is_refused(architecture: str, tmp_path: Path) -> None:
    """transformers makes one up for some of them, which has a single token."""
    tiny_model(architecture).save_pretrained(tmp_path / "model")
    with pytest.raises(PipelineError, match=r"base\.model: (no tokenizer beside the weights|.*cannot be loaded)"):
        acquire_base(settings(str(tmp_path / "model")), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    model = tiny_model("llama")
    assert rows_of(model) == vocabulary_of(folder) == 261
    model.config.pad_token_id = model.config.bos_token_id = model.config.eos_token_id = None
    model.resize_token_embeddings(250)
    model.save_pretrained(folder)
    assert rows_of(model) == vocabulary_of(folder) == 250
    with pytest.raises(PipelineError, match=r"base\.model: the tokenizer's token '.' is number 250, the model has 250"):
        acquire_base(settings(str(folder)), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_an_added_token_beyond_the_model_is_refused_where_a_prompt_needs_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])  # as Gemma 3's small text models have one for images, of no use to them
    hint = "the tokenizer has 1 tokens that the model has not, such as '<image>': a prompt with one is refused"
    assert check_tokenizer(tiny_model("llama"), tokenizer) == [hint]
    tokenizer.chat_template += "{% if false %}<image>{% endif %}"
    with pytest.raises(PipelineError, match="the tokenizer's token '<image>' is number 261, the model has 261"):
        check_tokenizer(tiny_model("llama"), tokenizer)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<eos>"})
    with pytest.raises(PipelineError, match="the tokenizer's token '<eos>' is number 261"):
        check_tokenizer(tiny_model("llama"), tokenizer)


def test_a_tokenizer_that_is_another_one_when_loaded_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers takes some tokenizers for its own of that model type, with other rules."""
    other = tiny_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    monkeypatch.setattr(base, "load_tokenizer", lambda *_: other)
    with pytest.raises(PipelineError, match="loads the saved tokenizer as another one"):
        acquire_base(settings(str(save_tiny(tmp_path / "model"))), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("end", [None, 900, -1])
def test_a_model_without_an_end_token_is_told(tmp_path: Path, end: int | None, capsys: pytest.CaptureFixture) -> None:
    words = "the model has no end token: each response is cut at rollout.max_new_tokens; name a token in "
    acquire_base(settings(str(save_tiny(tmp_path / "model"))), tmp_path / "base")
    assert capsys.readouterr().out == ""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(None)
    model.generation_config.eos_token_id = model.config.eos_token_id = end
    tokenizer.eos_token = None
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").unlink()
    acquire_base(settings(str(tmp_path / "model")), tmp_path / "base")
    assert words in " ".join(capsys.readouterr().out.split())


def test_a_template_that_ends_answers_in_another_token_than_the_model_is_told() -> None:
    """As of base models with a chat template: their end token ends documents."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert check_tokenizer(model, tokenizer) == []
    tokenizer.eos_token, model.generation_config.eos_token_id = "<s>", 256
    [hint] = check_tokenizer(model, tokenizer)
    assert "the chat template ends an answer with '<|end|>', which is not among the model's end tokens" in hint
    assert "rollout.stop_tokens" in hint
    model.generation_config.eos_token_id = [256, 257]
    assert check_tokenizer(model, tokenizer) == []
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert check_tokenizer(model, tokenizer) == []
