"""Segmentation metrics, computed from counts, in numpy."""
