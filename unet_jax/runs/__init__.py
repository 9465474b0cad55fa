"""A run's folder: config, checkpoints, log."""
