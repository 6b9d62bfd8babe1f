"""The text of each token of a response, with the base model's tokenizer and without torch."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import PipelineError

BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are not yet a character
LONGEST = 4  # bytes of a character in UTF-8


class TokenTexts:
    """Texts of token ids. Raises PipelineError where the tokenizer of `base` is not here or cannot be read."""

    def __init__(self, base: Path) -> None:
        from tokenizers import Tokenizer

        path = base / "tokenizer.json"
        if not path.is_file():
            raise PipelineError(f"{path}: not here, tokens are shown by their ids; `dvc repro base` makes it.")
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception
            raise PipelineError(f"{path}: cannot be read: {error}; `dvc repro base` makes it anew.") from None
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        self._alone: dict[int, str] = {}

    def pieces(self, ids: Sequence[int]) -> tuple[list[str], list[int], list[int]]:
        """Return the response in pieces: texts, how many tokens each is of, and which pieces are special tokens.

        A piece is one token, or the several tokens that one character is made of.
        """
        texts = [self._text(i) for i in ids]
        counts = [1] * len(ids)
        if "".join(texts) != self._decode(ids):
            texts, counts = self._in_context(ids)
        starts = [0, *accumulate(counts)][: len(counts)]
        special = [k for k, start in enumerate(starts) if ids[start] in self._special]
        return [t or f"[{ids[s]}]" for t, s in zip(texts, starts, strict=True)], counts, special

    def _in_context(self, ids: Sequence[int]) -> tuple[list[str], list[int]]:
        """Return texts and counts where tokens read differently alone: bytes of a character, a first token's space."""
        texts, counts = [], []
        before = done = 0  # ids[before:done] is the piece just told, and the context of the next
        for end in range(1, len(ids) + 1):
            told = self._decode(ids[before:done])
            text = self._decode(ids[before:end])[len(told) :]
            if text.endswith(BROKEN) and end < len(ids) and end - done < LONGEST:
                continue
            texts.append(text)
            counts.append(end - done)
            before, done = done, end
        return texts, counts

    def _text(self, token: int) -> str:
        if token not in self._alone:
            self._alone[token] = self._decode([token])
        return self._alone[token]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text
