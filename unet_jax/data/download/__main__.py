"""python -m unet_jax.data.download: see `archives.py`."""

from unet_jax.data.download.archives import main

if __name__ == "__main__":
    main()
