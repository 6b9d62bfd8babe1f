"""The same settings with several seeds: each a DVC experiment, and what their metrics have in common."""
