"""Augmentation: geometry, colour, RandAugment."""
