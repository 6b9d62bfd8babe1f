"""PPO fine-tuning of language models as a reproducible DVC pipeline of staged batch jobs."""

__version__ = "0.1.0"
