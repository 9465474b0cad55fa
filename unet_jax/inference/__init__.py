"""Applying trained networks: tiles, ensembles, test-time augmentation, mask files."""
