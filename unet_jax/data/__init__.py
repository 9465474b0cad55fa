"""Data sets and the way from their files to batches of numpy arrays. No jax in here."""

from unet_jax.data import carvana, drive, folder, isbi, ph2, voc

# Each opens and checks the data set that `config.data` describes.
DATASETS = {
    "isbi": isbi.open_isbi,
    "phantom": isbi.open_phantom,
    "drive": drive.open_drive,
    "carvana": carvana.open_carvana,
    "voc": voc.open_voc,
    "ph2": ph2.open_ph2,
    "folder": folder.open_folder,
}
