"""A gold reward for messages: short, polite, on the subject; `function: reward_functions.courtesy:reward`.

params/rlhf.yaml records it with weight 0: the pipeline learns from a reward model of pairs that this function judged,
and never from it, so that one sees how far the two go apart.
"""

import re
from typing import Any

POLITE = (
    "please", "thank", "thanks", "sorry", "apologise", "apologize", "apologies", "grateful", "appreciate", "kindly",
    "welcome", "regards", "pleasure", "glad", "happy",
)  # fmt: skip
SHORT, LONG = 25, 60  # words: up to the first a message is short, from the second on it is not short at all


def reward(prompts: list[str], completions: list[str], *, subject: list[str], **columns: list[Any]) -> list[float]:
    """Return, from 0 to 3, the sum of three parts from 0 to 1; 0 for a text without a word.

    polite: half for each of two different polite words. on the subject: 1 where the word `subject` stands in it.
    short: 1 up to 25 words, falling to 0 at 60.
    """
    return [courtesy(completion, word) for completion, word in zip(completions, subject, strict=True)]


def courtesy(text: str, subject: str) -> float:
    """Return the reward of one message."""
    words = re.findall(r"[a-z']+", text.lower())
    if not words:
        return 0.0
    polite = min(2, len({word for word in words if word in POLITE})) / 2
    near = float(subject in words or f"{subject}s" in words)
    short = min(1.0, max(0.0, (LONG - len(words)) / (LONG - SHORT)))
    return polite + near + short
