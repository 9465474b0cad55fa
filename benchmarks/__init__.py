"""Measurements, and the comparison with PyTorch; each module is a command."""

import sys

from unet_jax.core.tuning import restart_with_huge_pages

# `python -m benchmarks.NAME` imports this first, before JAX and PyTorch; tests import it otherwise.
if sys.argv[0] == "-m":
    restart_with_huge_pages()
