"""Texts of tokens: characters made of several tokens, special tokens, tokenizers that strip and join."""

from pathlib import Path

import pytest
from conftest import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.report.token_texts import TokenTexts


@pytest.fixture
def byte_level(tmp_path: Path) -> TokenTexts:
    tiny_tokenizer().save_pretrained(tmp_path)
    return TokenTexts(tmp_path)


def sentence_pieces(folder: Path) -> TokenTexts:
    """Llama 2's kind: a marked space, stripped at the start, and bytes for what is not in the vocabulary."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁Hello", "▁world", "!", "▁"]
    tokenizer = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in ("<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenTexts(folder)


def ids_of(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer()(text)["input_ids"]
    return ids


@pytest.mark.parametrize("text", ["plain", "é", "北京", "🙂🙂", "a北b", "מה", "👩‍🚀 x"])
def test_a_character_of_several_tokens_is_one_piece(byte_level: TokenTexts, text: str) -> None:
    pieces, counts, special = byte_level.pieces(ids_of(text))
    assert pieces == list(text) and counts == [len(c.encode()) for c in text] and special == []


def test_broken_characters_end_and_lose_no_token(byte_level: TokenTexts) -> None:
    broken = ids_of("北")[:2]
    for ids in (broken, [*broken, *ids_of("ab")], [broken[0]] * 9, [*ids_of("京"), *broken]):
        pieces, counts, _ = byte_level.pieces(ids)
        assert sum(counts) == len(ids) and len(pieces) == len(counts) and max(counts) <= 4
        assert "�" in "".join(pieces)


def test_special_tokens_are_told_apart_from_text_that_looks_like_them(byte_level: TokenTexts) -> None:
    end = tiny_tokenizer().eos_token_id
    as_text = [i for c in "<|end|>" for i in ids_of(c)]
    pieces, counts, special = byte_level.pieces([*as_text, *ids_of("北"), end])
    assert pieces == [*"<|end|>", "北", "<|end|>"] and special == [8] and counts == [1] * 7 + [3, 1]


def test_an_id_beyond_the_vocabulary_is_shown_by_its_number(byte_level: TokenTexts) -> None:
    assert byte_level.pieces([*ids_of("a"), 5000]) == (["a", "[5000]"], [1, 1], [])


def test_no_token_at_all(byte_level: TokenTexts) -> None:
    assert byte_level.pieces([]) == ([], [], [])


def test_a_stripped_space_is_the_first_tokens_alone(tmp_path: Path) -> None:
    texts = sentence_pieces(tmp_path)
    hello, world, mark, end = 259, 260, 261, 2
    assert texts.pieces([hello, world, mark, end]) == (["Hello", " world", "!", "</s>"], [1, 1, 1, 1], [3])
    byte_ids = [3 + b for b in "京".encode()]
    assert texts.pieces([hello, *byte_ids, world]) == (["Hello", "京", " world"], [1, 3, 1], [])


def test_a_missing_or_damaged_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="tokens are shown by their ids"):
        TokenTexts(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PipelineError, match="cannot be read"):
        TokenTexts(tmp_path)
