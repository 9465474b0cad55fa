"""Compares finished runs: `python -m unet_jax.report`; see `unet_jax/reporting/report.py`."""

import sys

from unet_jax.reporting.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
