"""The sweep over architectures: a type that is right, one that is refused, and what it calls wrong or a traceback."""

from pathlib import Path

import architecture_round
import pytest
from architecture_round import try_architecture
from tiny_models import tiny_model

from ppo_pipeline.sampling.masks import Masks


def test_a_type_is_right_or_refused(tmp_path: Path) -> None:
    found = try_architecture("mistral", tmp_path / "window")
    assert (found.result, found.text) == ("right", "")
    assert "the model has 96 in its attention window" in found.long
    found = try_architecture("rwkv", tmp_path / "refused")
    assert (found.result, found.stage) == ("refused", "base")


def test_numbers_of_another_model_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture_round, "plain_model", lambda folder: tiny_model("llama", tie_word_embeddings=True))
    found = try_architecture("llama", tmp_path)
    assert (found.result, found.stage) == ("wrong", "decoder")
    assert "logprobs differ by up to" in found.text


def test_a_decoder_that_fails_behind_the_trial_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.base.check_model", lambda model: None)
    monkeypatch.setattr(Masks, "of", lambda self, seen, rows: seen[:, None])
    assert try_architecture("gpt_neo", tmp_path / "masks").result == "wrong"
    assert try_architecture("jamba", tmp_path / "recurrent").result == "traceback"
