"""Utilities for all other packages: errors, files, faults, signals and config fields."""
