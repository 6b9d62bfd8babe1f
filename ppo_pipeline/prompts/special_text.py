"""Special tokens' text within a prompt's own words, tokenised as text.

A tokenizer makes the token <|im_end|> of these ten characters, whoever wrote them: a user's words could end his turn
and open the assistant's.
"""

import json
import re
from functools import lru_cache
from typing import Any

from .chat_template import END, START
from .conversations import Messages

OWN = "\U0010fff2"  # begins and ends the name of a token that the template itself wrote


class SpecialText:
    """What a tokenizer takes for special, and how to make text of it.

    template: what the chat template may write itself. Special are the tokenizer's special tokens, and of its other
    added tokens those that the template writes (DeepSeek's are such) or that the tokenizer calls control tokens.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        control = getattr(tokenizer, "chat_control_tokens", None)
        self.tokens = tuple(
            sorted(
                (t.content for t in tokenizer.added_tokens_decoder.values() if _is_control(t, template, control)),
                key=lambda text: (-len(text), text),  # the longest first: it has priority over what it contains
            )
        )
        either = "|".join(map(re.escape, self.tokens)) or "(?!)"
        self._pattern = re.compile(either)
        self._parts = re.compile(f"{START}({either}){END}|({either})|[{START}{END}]")

    def found(self, messages: Messages) -> str | None:
        """Return the first special token's text that stands in a message, None where none does."""
        hits = (self._pattern.search(message["content"]) for message in messages)
        return next((hit[0] for hit in hits if hit), None)

    def marked(self, messages: Messages) -> Messages:
        """Return the conversation with marks around each such text."""
        return [{**m, "content": self._pattern.sub(f"{START}\\g<0>{END}", m["content"])} for m in messages]

    def encode(self, written: str, add_special_tokens: bool) -> list[int] | None:
        """Return the ids of a text written from `marked` messages: what is marked is text, all else as ever.

        The tokenizer's copy that does it looks for no special token. It knows the template's own by other names, so
        that text is split and normalised around them as it always is. None: this tokenizer cannot do it.
        """
        ids = self._blind_ids(written, add_special_tokens)
        bare = self._parts.sub(lambda part: part[2] or "", written)  # without the marked: both must agree on the rest
        expected = self._tokenizer(bare, add_special_tokens=add_special_tokens)["input_ids"]
        return ids if self._blind_ids(bare, add_special_tokens) == expected else None

    def _blind_ids(self, written: str, add_special_tokens: bool) -> list[int] | None:
        blind, ids_of = _blind(self._tokenizer, self.tokens)
        if blind is None:
            return None
        own = self._parts.sub(lambda p: p[1] or (f"{OWN}{self.tokens.index(p[2])}{OWN}" if p[2] else ""), written)
        encoded = blind.encode(own, add_special_tokens=add_special_tokens)
        special = set(ids_of.values()) - {self._tokenizer.unk_token_id}
        if any(i in special and not added for i, added in zip(encoded.ids, encoded.special_tokens_mask, strict=True)):
            return None  # a vocabulary that has a special token's text among its words
        return [ids_of.get(i, i) for i in encoded.ids]


def _is_control(token: Any, template: str, control: list[str] | None) -> bool:
    if token.special:
        return True
    if control is not None:
        return token.content in control
    return token.content in template and not token.content.isalnum() and not token.content.isspace()


@lru_cache(maxsize=2)
def _blind(tokenizer: Any, tokens: tuple[str, ...]) -> tuple[Any, dict[int, int]]:
    """Return a copy of the tokenizer that takes no token of `tokens` for special but by its name here, and their ids.

    None instead of the copy for a tokenizer that is none of the library tokenizers', or has parts of its own code.
    """
    from tokenizers import AddedToken, Tokenizer

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    try:
        state = json.loads(backend.to_str())
        known = {token["content"]: token for token in state["added_tokens"]}
        for token in tokens:
            known[token]["special"] = True
        blind = Tokenizer.from_str(json.dumps(state))
    except Exception:  # tokenizers has no exception class of its own
        return None, {}
    flags = ("single_word", "lstrip", "rstrip", "normalized")  # white space beside it is split off as ever
    names = [f"{OWN}{i}{OWN}" for i in range(len(tokens))]
    for name, token in zip(names, tokens, strict=True):
        blind.add_tokens([AddedToken(name, special=False, **{flag: known[token][flag] for flag in flags})])
    own_ids = [blind.token_to_id(name) for name in names]
    blind.encode_special_tokens = True  # the library's name for: the text of special tokens is text
    blind.no_truncation()
    blind.no_padding()
    return blind, {own: known[token]["id"] for own, token in zip(own_ids, tokens, strict=True) if own is not None}
