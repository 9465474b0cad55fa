"""PH2: dermoscopic images of skin lesions, segmented by dermatologists.

Mendonça et al., 2013, https://doi.org/10.1109/EMBC.2013.6610779
"""

import pathlib

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset, random_split
from unet_jax.data.files.pairs import (
    binary_label,
    check_binary,
    list_files,
    make_dataset,
    scan_pairs,
)
from unet_jax.data.sources.registry import register

FOLDER = "PH2 Dataset images"
SOURCE = (
    "download the archive (RAR) from https://www.fc.up.pt/addi/ph2%20database.html by hand, unpack "
    "it, and name the folder that contains PH2Dataset/ with --config.data.root=..."
)


@register("ph2")
def open_ph2(data: ConfigDict) -> Dataset:
    """Opens the images and lesion masks of PH2, split at random as `data.split` specifies.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, with the classes `skin` and `lesion`.

    Raises:
      UserError: files are missing, damaged or do not fit each other.
    """
    folder = pathlib.Path(data.root) / "PH2Dataset" / FOLDER
    cases = list_files(folder, r"(IMD\d+)", "one folder IMDnnn for each case", SOURCE)
    files = {
        name: (
            case / f"{name}_Dermoscopic_Image" / f"{name}.bmp",
            case / f"{name}_lesion" / f"{name}_lesion.bmp",
        )
        for name, case in cases.items()
    }
    for image, mask in files.values():
        for path, what, other in ((image, "image", mask), (mask, "mask", image)):
            if not path.is_file():
                raise UserError(f"{path}: no such file, the {what} of {other.name}; {SOURCE}")
    pairs = scan_pairs(files)
    check_binary((pair.mask for pair in pairs), "1 = lesion")
    split = random_split([*files], data.split, data.split_seed, str(folder), fold=data.fold)
    parts = {part: [pairs[i] for i in indices] for part, indices in split.items()}
    return make_dataset(parts, ("skin", "lesion"), binary_label)
