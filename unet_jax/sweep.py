"""Runs a sweep: `python -m unet_jax.sweep`; see `unet_jax/reporting/sweep.py`."""

import sys

from unet_jax.reporting.sweep import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
