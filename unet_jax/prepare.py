"""Prepares VOC and SBD: `python -m unet_jax.prepare`; see `unet_jax/data/sources/sbd.py`."""

import sys

from unet_jax.data.sources.sbd import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
