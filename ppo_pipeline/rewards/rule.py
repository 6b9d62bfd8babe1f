"""Rule rewards: is the expected answer there, and how long is the response?"""

import re
import unicodedata

from ..errors import PipelineError, nearest
from ..reward_sections import RuleComponent
from .samples import Samples

# Letters of scripts that write words without spaces, or with endings attached: Thai to Burmese, Khmer, Hangul, Chinese
# and Japanese. A word may stand next to these.
UNSPACED = "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
BOUNDED = rf"[^\W_{UNSPACED}]"
EDGES = " \t\n.,;:!?。，；：！？、\"'`*“”‘’「」()（）"


def normalise(text: str, keep_case: bool = False) -> str:
    """Return `text` in Unicode NFKC, white space folded, without punctuation and quotes at its ends.

    Case is folded unless `keep_case`.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).split()).strip(EDGES)
    return text if keep_case else text.casefold()


def matches(response: str, expected: str, how: str) -> bool:
    """Tell whether the normalised `expected` is (exact), or stands in (word, contains), `response`.

    word: not next to a further letter or digit, so that 1 is not found in 12; letters of scripts without
    spaces between words do not count as such.
    """
    if how == "exact":
        return response == expected
    if how == "contains":
        return expected in response
    return re.search(rf"(?<!{BOUNDED}){re.escape(expected)}(?!{BOUNDED})", response) is not None


def rule_rewards(settings: RuleComponent, samples: Samples) -> list[float]:
    """Return, per sample, `hit` or `miss`, less `length_penalty` for each character of the normalised response.

    exact, word and contains look for the prompt's `expected` in the normalised response; regex searches `pattern`
    in the response as it was written.

    At most `max_length_penalty` is subtracted, so that rambling does not drown the rest of a batch. The LoRA
    notebook's reward is match: contains, hit: 1, miss: -1, length_penalty: 0.002, no limit. Raises PipelineError
    where the prompts lack the column `expected`, or the case column, or a row's answer is empty.
    """
    known = list(samples.columns)
    compares = settings.match not in ("none", "regex")
    expected_column = _column(samples, "expected", known, settings.name) if compares else None
    pattern = re.compile(settings.pattern) if settings.pattern is not None else None
    case_column = None
    if settings.case_column is not None:
        case_column = _column(samples, settings.case_column, known, settings.name)
    rewards = []
    for i, text in enumerate(samples.responses):
        keep_case = case_column is not None and bool(case_column[i])
        response = normalise(text, keep_case)
        reward = 0.0
        if pattern is not None:
            reward = settings.hit if pattern.search(text) else settings.miss
        if expected_column is not None:
            expected = normalise(str(expected_column[i] if expected_column[i] is not None else ""), keep_case)
            if not expected:
                raise PipelineError(
                    f"reward '{settings.name}': sample '{samples.sample_ids[i]}': its prompt's `expected` is empty."
                )
            reward = settings.hit if matches(response, expected, settings.match) else settings.miss
        penalty = settings.length_penalty * len(response)
        if settings.max_length_penalty is not None:
            penalty = min(penalty, settings.max_length_penalty)
        rewards.append(reward - penalty)
    return rewards


def _column(samples: Samples, name: str, known: list[str], component: str) -> list[object]:
    if name not in samples.columns:
        there = ", ".join(known) or "none"
        raise PipelineError(
            f"reward '{component}': the prompts have no column '{name}'.{nearest(name, known)} They have: {there}."
        )
    return samples.columns[name]
