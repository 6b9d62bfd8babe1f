"""Texts as rules compare them: Unicode's NFKC, white space and case folded, no punctuation at the ends."""

import re
import unicodedata

# Letters of scripts that write words without spaces, or with endings attached: Thai to Burmese, Khmer, Hangul, Chinese
# and Japanese. A word may stand next to these.
UNSPACED = "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = "".join(chr(code) for code in range(0x300, 0xE00) if unicodedata.category(chr(code)).startswith("M"))
BOUNDED = rf"(?:[^\W_{UNSPACED}]|[{MARKS}])"  # a letter or digit, or a vowel sign of Hindi, Arabic and the like
EDGES = " \t\n.,;:!?。，；：！？、\"'`*“”‘’「」()（）"
# A minus before a number, and no hyphen: 3-5 is a range, and so are 3–5 and (3)-5.
BEFORE_SIGN = rf"(?<!{BOUNDED})(?<![)\]-])"
NUMBER = re.compile(rf"((?:{BEFORE_SIGN}-)?(?:(?<![\w.])\.)?\d+(?:[.,]\d+)*)")  # with what of punctuation is its own
MINUS = re.compile(rf"{BEFORE_SIGN}[\u2010-\u2013\u2212](?=\.?\d)")
# What NFKC would join to a number: 5² is not 52, 1½ not 11⁄2, and 3，5 are two numbers where 3,5 is one.
JOINED = (
    (re.compile("(?<=\\d)(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u207b])"), "^"),
    (re.compile("(?<=\\d)(?=[\u2080-\u208b])"), "_"),
    (re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215f\u2189])"), " "),
    (re.compile("(?<=\\d)，(?=\\d)"), "、"),
)


def normalise(text: str, keep_case: bool = False) -> str:
    """Return `text` in Unicode NFKC, white space folded, without punctuation and quotes at its ends.

    Case is folded unless `keep_case`. The point of .5 stays, and each sign of a number is written as "-".
    """
    for place, between in JOINED:
        text = place.sub(between, text)
    whole = " ".join(unicodedata.normalize("NFKC", text).split())
    text = whole.strip(EDGES)
    before = whole[: len(whole) - len(whole.lstrip(EDGES))]
    if text[:1].isdecimal() and before.endswith(".") and not before.endswith(".."):
        text = f".{text}"
    text = MINUS.sub("-", text)
    return text if keep_case else text.casefold()


def bare(text: str, keep_case: bool = False) -> str:
    """Return `normalise(text)` with white space and punctuation left out everywhere, as the LoRA notebook does.

    What belongs to a number stays: its sign, and points and commas between digits.
    """
    parts = NUMBER.split(normalise(text, keep_case))  # every second one is a number
    return "".join(part if i % 2 else "".join(filter(_counts, part)) for i, part in enumerate(parts))


def _counts(character: str) -> bool:
    return not (character.isspace() or character in EDGES or unicodedata.category(character).startswith("P"))
