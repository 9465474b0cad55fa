"""Makes images with about 1 % foreground, for a comparison of shares of windows with foreground.

python -m benchmarks.rare_foreground --output=data/rare
python -m unet_jax.sweep --config=configs/folder.py --seeds=0,1,2 --workdir=runs/rare-033 \\
    --config.data.root=data/rare --config.data.fit=crop --config.data.size=64 \\
    --config.data.crops_per_image=1 --config.data.foreground=0.33 \\
    --config.model.width=8 --config.model.depth=2 --config.num_epochs=40

and the same with --config.data.foreground=0 in another folder. An image is smooth noise with two
spots, the foreground, and ten rings of the same brightness, which are background.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import scipy
import tifffile

from unet_jax.core.command_help import command_parser

IMAGES, SIDE = 52, 256
SPOTS, RINGS = 2, 10
RADII = (6, 13)  # pixels, from the least to below the last


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_parser("python -m benchmarks.rare_foreground", __doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write")
    folder = parser.parse_args(arguments).output
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng, shares = np.random.default_rng(0), []
    for index in range(IMAGES):
        image, mask = draw(rng)
        shares.append((mask > 0).mean())
        for name, pixels in {"images": image, "masks": mask}.items():
            tifffile.imwrite(folder / name / f"{index:02}.tif", pixels)
    print(f"{folder}: {IMAGES} images, {np.mean(shares):.2%} foreground")


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image and its mask (0 and 255), both uint8 [SIDE, SIDE]."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3)
    image = 110 + 30 * noise / noise.std()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(SPOTS + RINGS):
        centre, radius = rng.integers(0, SIDE, 2), rng.integers(*RADII)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        if number < RINGS:
            image[(distance <= radius) & (distance > radius / 2)] += 60
        else:  # drawn last, so that no ring covers a spot
            image[distance <= radius] += 60
            mask[distance <= radius] = 255
    image += rng.normal(0, 15, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


if __name__ == "__main__":
    main()
