"""What a `dvc repro` would do, told before it runs."""
