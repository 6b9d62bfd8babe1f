"""Reward functions; an edit in this folder reruns `reward` and `evaluate`, and nothing before them."""
