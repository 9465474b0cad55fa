"""Segmentation metrics in numpy, computed from pixel counts."""
