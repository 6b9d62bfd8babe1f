"""Numbers in normalised text: where each stands, from its sign to its last digit, and what its value is."""

import re
from fractions import Fraction

from .normal_form import BEFORE_SIGN, BOUNDED, normalise

CURRENCY = "$€£¥"
SIGN = rf"(?:(?:{BEFORE_SIGN}-|[负負])[{CURRENCY}]?)?"
POINT = rf"(?:(?<!{BOUNDED})(?<!\.)\.)?"  # of .5; in "is.5" and "...5" it ends what stands before
# Points, commas and the like between two digits belong to the number, and so does the 万 of 3万.
DIGITS = rf"{SIGN}(?:\d+ \d+[/⁄]\d+|{POINT}\d+(?:(?:[.,'’_/⁄^]|\^[-−])\d+)*(?:e[-+]?\d+)?[十百千万亿萬億]*)"
NUMERALS = "〇零一二三四五六七八九十百千万亿两兩萬億"
IN_DIGITS = re.compile(DIGITS, re.IGNORECASE)
NUMBER = re.compile(rf"{DIGITS}|[负負]?[{NUMERALS}]+(?:[点點][{NUMERALS}]+)*", re.IGNORECASE)

GROUP_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")  # 15 000 as typesetters write it
SIGNED = re.compile(rf"([-负負]?)[{CURRENCY}]?(.*)")
FRACTION = re.compile(r"(?:(\d+) )?(\d+)[/⁄](\d+)")
GROUPED = re.compile(r"\d{1,3}([,'’_])\d{3}(?:\1\d{3})*(?=[.e]|$)", re.IGNORECASE)
DECIMAL = re.compile(r"(?:\d+(?:\.\d+)?|\.\d+)(?:e([-+]?\d+))?", re.IGNORECASE)
LONGEST, LARGEST_EXPONENT = 300, 300  # beyond these no value is computed


def spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each number in the normalised `text`, in digits or Chinese numerals."""
    return [found.span() for found in NUMBER.finditer(text)]


def value_of(number: str) -> Fraction | None:
    """Return the value of one number in digits, exactly; None where it has none, or reads in two ways.

    1,234.5 and 1'234 are grouped by threes; 1/2 and 1 1/2 are fractions. None: 1,5 (is it 1.5?), 1.2.3, 2^5, 3万.
    """
    sign, digits = SIGNED.fullmatch(number).groups()  # type: ignore[union-attr]  # it fits any text of one line
    if len(digits) > LONGEST:
        return None
    if fraction := FRACTION.fullmatch(digits):
        whole, over, under = (int(part or 0) for part in fraction.groups())
        if under == 0:
            return None
        value = whole + Fraction(over, under)
    else:
        if grouped := GROUPED.match(digits):
            digits = grouped[0].replace(grouped[1], "") + digits[grouped.end() :]
        decimal = DECIMAL.fullmatch(digits)
        if decimal is None or abs(int(decimal[1] or 0)) > LARGEST_EXPONENT:
            return None
        value = Fraction(digits)
    return -value if sign else value


def last_value(text: str) -> Fraction | None:
    """Return the value of the last number in `text` that is in digits; None where there is none, or it has none."""
    found = IN_DIGITS.findall(normalise(GROUP_SPACE.sub(",", text)))
    return value_of(found[-1]) if found else None


def whole_value(text: str) -> Fraction | None:
    """Return the value of a text that is one number, but for a currency, a plus or a percent sign; else None."""
    number = normalise(GROUP_SPACE.sub(",", text)).removesuffix("%").lstrip(f"+{CURRENCY}")
    return value_of(number) if IN_DIGITS.fullmatch(number) else None
