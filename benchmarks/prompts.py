"""The prompts of the decoder's benchmark: short tasks and open questions, so that lengths differ as in real use."""

from typing import Any

TOPICS = (
    "rivers", "volcanoes", "honey bees", "the moon", "bicycles", "bread", "chess", "glass", "whales", "maps", "clocks",
    "bridges", "cotton", "salt", "owls", "lightning", "paper", "coffee", "glaciers", "violins", "magnets", "soap",
    "deserts", "libraries", "rice", "trains", "mirrors", "wolves", "tides", "spices", "kites", "snow",
)  # fmt: skip
FORMS = (
    "Explain {} to a child in a few sentences.",
    "Answer with one word: what colour do you think of with {}?",
    "Write two sentences about {}.",
    "Name three things that have to do with {}, separated by commas.",
)


def prompts(count: int) -> list[str]:
    """Return `count` different prompts, the four forms in turn."""
    every = [form.format(topic) for topic in TOPICS for form in FORMS]
    return [every[i % len(every)] + (f" ({i // len(every)})" if i >= len(every) else "") for i in range(count)]


def prompt_ids(tokenizer: Any, count: int) -> list[list[int]]:
    """Return the token ids of these prompts, each a user's message that is to be answered."""
    from ppo_pipeline.prompts.rendering import render

    return [render(tokenizer, [{"role": "user", "content": text}], "auto")[1] for text in prompts(count)]
