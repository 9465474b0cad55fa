"""Layers optimised for CPU or TPU, with the values and gradients of the plain layers."""
