"""Data sets and the way from their files to batches of numpy arrays. No jax in here."""

from unet_jax.data import isbi

# Each opens and checks the data set that `config.data` describes.
DATASETS = {"isbi": isbi.open_isbi, "phantom": isbi.open_phantom}
