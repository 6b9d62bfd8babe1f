"""Experiment trackers: a run's numbers, sent to TensorBoard, MLflow, W&B or trackio; one file each."""
