"""Evaluation of networks on a split, and inspection of data sets."""
