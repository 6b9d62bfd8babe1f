"""The model card of a round: what the run knows of the model, for the README.md of a hub repository."""
