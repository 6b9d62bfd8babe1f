"""An example: prefer short answers. Used with `type: python`, `function: reward_functions.brevity:reward`."""

from typing import Any


def reward(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    """Return 1 for an empty answer, falling to 0 at 100 characters.

    prompts, completions: one text per sample. columns: the prompts' further columns, such as `expected`.
    """
    return [max(0.0, 1 - len(completion.strip()) / 100) for completion in completions]
