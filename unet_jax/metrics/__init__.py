"""Segmentation metrics in numpy, computed from counts or from pixels."""
