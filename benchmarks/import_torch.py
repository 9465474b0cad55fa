"""The command `python -m unet_jax.interchange.pytorch` under its earlier name."""

import sys

from unet_jax.interchange.pytorch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
