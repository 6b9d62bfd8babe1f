"""An example: the answer that the prompt's row expects, in few words. params.yaml names it under `reward`."""

import re


def reward(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    """Return 1 where the answer is in the response, else 0, less 0.05 for each word, at most 1 in all.

    prompts, completions: one text per sample. columns: the further columns of the prompts' file, one value per
    sample; this one reads `expected`.
    """
    rewards = []
    for completion, expected in zip(completions, columns["expected"], strict=True):
        words = re.findall(r"\w+", completion.lower())
        rewards.append(float(expected.lower() in words) - min(1.0, 0.05 * len(words)))
    return rewards
