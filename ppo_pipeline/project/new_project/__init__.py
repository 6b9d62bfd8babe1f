"""A new project folder that runs with the installed package: what `ppo-pipeline init` writes."""
