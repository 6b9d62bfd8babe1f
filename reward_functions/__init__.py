"""Reward functions of one's own; an edit in this folder reruns `reward` and `evaluate`, and nothing before them."""
