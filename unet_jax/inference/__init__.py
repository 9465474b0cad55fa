"""Inference: overlap-tile prediction, ensembles, test-time augmentation (TTA), mask files."""
