"""Masks as a scan describes them, without files."""

import pathlib

from unet_jax.data.files.masks import MaskFile


def scanned(*pixels_of, colours=False, lossy=False, palette=()) -> list[MaskFile]:
    """Masks with these numbers of pixels of each value; a collection of values has 100 of each."""
    masks = []
    for i, pixels in enumerate(pixels_of):
        counts = pixels if isinstance(pixels, dict) else dict.fromkeys(pixels, 100)
        masks.append(
            MaskFile(
                path=pathlib.Path(f"/data/masks/{i}.png"),
                size=(1, sum(counts.values())),
                values=tuple(sorted(counts)),
                counts=tuple(counts[value] for value in sorted(counts)),
                palette=palette,
                colours=colours,
                lossy=lossy,
                white_is_zero=False,
                sha256="0",
            )
        )
    return masks
