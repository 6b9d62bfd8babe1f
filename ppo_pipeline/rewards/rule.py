"""Rule rewards: is the expected answer there, and how long is the response?"""

import re
from fractions import Fraction

from ..settings.reward_sections import RuleComponent
from .normal_form import BOUNDED, bare, normalise
from .numbers import last_value, spans
from .samples import Samples
from .wanted import Wanted, read_wanted


def matches(response: str, expected: str, how: str) -> bool:
    """Tell whether the normalised `expected` is (exact), or stands in (word, contains, characters), `response`.

    word: not next to a further letter or digit, so that 1 is not found in 12; letters of scripts without
    spaces between words do not count as such. A number is found whole or not at all: 5 is not in -5, 0.5 or 5,000,
    and 五 is not in 十五.
    """
    if how == "exact":
        return response == expected
    if how in ("contains", "characters") or expected not in response:
        return expected in response
    numbers = spans(response)
    # Within a lookahead, so that places may overlap.
    for found in re.finditer(rf"(?<!{BOUNDED})(?={re.escape(expected)}(?!{BOUNDED}))", response):
        start, end = found.start(), found.start() + len(expected)
        if all(start <= first and last <= end for first, last in numbers if first < end and start < last):
            return True
    return False


def rule_rewards(settings: RuleComponent, samples: Samples) -> list[float]:
    """Return, per sample, `hit` or `miss`, less `length_penalty` for each character of the normalised response.

    exact, word, contains and characters (of which both sides are `bare`) look for the prompt's `expected` in the
    normalised response, any answer of a list; number compares the response's last number with it; regex searches
    `pattern` in the response as it was written.

    At most `max_length_penalty` is subtracted, so that rambling does not drown the rest of a batch. The LoRA
    notebook's reward is match: characters, hit: 1, miss: -1, length_penalty: 0.002, no limit. Raises PipelineError
    where the prompts lack the column `expected`, or the case column, or hold a value there that is none (wanted.py).
    """
    rewards = []
    for text, wanted in zip(samples.responses, read_wanted(settings, samples), strict=True):
        response = (bare if settings.match == "characters" else normalise)(text, wanted.keep_case)
        reward = 0.0
        if settings.match != "none":
            reward = settings.hit if _is_hit(settings, text, response, wanted) else settings.miss
        penalty = settings.length_penalty * len(response)
        if settings.max_length_penalty is not None:
            penalty = min(penalty, settings.max_length_penalty)
        rewards.append(reward - penalty)
    return rewards


def _is_hit(settings: RuleComponent, text: str, response: str, wanted: Wanted) -> bool:
    """Tell whether a response matches; `response` is `text` normalised."""
    if settings.pattern is not None:
        return re.search(settings.pattern, text) is not None
    if settings.match == "number":
        value, tolerance = last_value(text), Fraction(str(settings.tolerance))
        return value is not None and any(abs(value - each) <= tolerance for each in wanted.values)
    return any(matches(response, each, settings.match) for each in wanted.texts)
