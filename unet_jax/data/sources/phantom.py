"""A made-up electron-microscopy stack in the manner of ISBI 2012: the demo data set.

The tissue is a packing of spheres in three dimensions, turned into cells by its power diagram and
bent by a smooth warp; every slice is a plane cut through it. Serial sections of one solid resemble
their neighbours, and a wall that meets the plane at a grazing angle comes out broad and faint, as
in a real section. All lengths are in pixels.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tifffile
from scipy import ndimage
from scipy.spatial import KDTree

from unet_jax.core.errors import UserError

FILE_NAMES = ("train-volume.tif", "train-labels.tif")

MEMBRANE, CELL = 0, 255
SECTION_STEP = 3.0  # distance between neighbouring slices
CELL_RADIUS = 17.0  # median radius of the packed spheres
REACH = 60.0  # tissue kept around the imaged block, so that its border has neighbours too
MEMBRANE_SHARE = 0.215  # mean share of membrane pixels in a slice

Field = Callable[[np.ndarray], np.ndarray]  # points float [..., 3] -> values float [...]


def generate(slices: int = 30, size: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a stack of slices and its labels; the same arguments give the same bytes.

    Args:
        slices: number of slices S, at least 1.
        size: height H and width W of a slice, at least 64 (a few cells across).
        seed: seed of every random draw.

    Returns:
        Volume, uint8 [S, H, W] of grey values, membranes dark; labels, uint8 [S, H, W] of
        0 (membrane) and 255 (cell). Membranes cover 18-25 % of every slice.

    Raises:
        ValueError: `slices` or `size` is below its least value.
    """
    if slices < 1 or size < 64:
        raise ValueError(f"need slices >= 1 and size >= 64, got slices={slices}, size={size}")
    rng = np.random.default_rng(seed)
    extent = np.array([(slices - 1) * SECTION_STEP, size, size])
    centres, radii = _pack_spheres(extent, rng)
    mitochondria = _place_mitochondria(centres, radii, rng)
    # A power diagram is a Voronoi diagram of points lifted into one more dimension.
    lifted = np.column_stack([centres, np.sqrt(radii.max() ** 2 - radii**2)])
    tree = KDTree(lifted)
    tint = rng.normal(0, 5, len(centres))
    bend = [_smooth_field(rng, wavelength=90, std=8) for _ in range(3)]
    ripple = [_smooth_field(rng, wavelength=22, std=1.2) for _ in range(3)]
    stain = _smooth_field(rng, wavelength=60, std=1)
    drift = np.cumsum(rng.normal(0, 0.7, (slices, 2)), axis=0)

    volume = np.empty((slices, size, size), np.uint8)
    labels = np.empty_like(volume)
    rows, columns = np.mgrid[:size, :size].astype(float)
    for s in range(slices):
        depth = np.full_like(rows, s * SECTION_STEP)
        flat = np.stack([depth, rows + drift[s, 0], columns + drift[s, 1]], axis=-1)
        warp = [b(flat) + r(flat) for b, r in zip(bend, ripple, strict=True)]
        points = flat + np.stack(warp, axis=-1)
        cell, wall, visible = _cut_walls(tree, points)
        # Taking the half-width from the share keeps the class balance the same in every slice.
        half_width = np.quantile(wall, MEMBRANE_SHARE + rng.uniform(-0.02, 0.02))
        labels[s] = np.where(wall <= half_width, MEMBRANE, CELL)

        faint_stain = np.clip(2.6 - 1.2 * stain(flat), 0.3, 1)
        tissue = 175 + tint[cell] + _cytoplasm(wall, rng)
        tissue -= _mitochondria_darkness(mitochondria, cell, points)
        membrane = np.exp(-((wall / half_width) ** 2)) * np.minimum(visible, faint_stain)
        tissue += (45 - tissue) * membrane
        volume[s] = _image(tissue, rng)
    return volume, labels


def write(root: pathlib.Path, slices: int = 30, size: int = 256, seed: int = 0) -> None:
    """Write `generate`'s stack into the folder `root` under ISBI's file names, once.

    The files are multi-page TIFF, one page a slice. If both are there, nothing is done. The set
    is built in a temporary folder beside `root` and renamed into place, so `root` never holds half
    a set, and of several processes at once the first one wins.

    Args:
        root: folder to make; its parents are made where missing.
        slices, size, seed: as in `generate`.

    Raises:
        UserError: `root` is there and holds something other than the complete set.
        ValueError: as in `generate`.
        OSError: the files cannot be written.
    """
    root = root.resolve()
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        missing = missing_files(root)
        if not missing:
            return
        raise UserError(
            f"demo data set: {root} lacks {' and '.join(missing)}; "
            "remove what is there or name another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        # A folder inside the temporary one: that one is private to its owner, the set is not.
        built = pathlib.Path(temporary) / root.name
        built.mkdir()
        for name, stack in zip(FILE_NAMES, generate(slices, size, seed), strict=True):
            tifffile.imwrite(built / name, stack, photometric="minisblack")
        try:
            os.rename(built, root)
        except OSError:
            if missing_files(root):  # else another process was first
                raise


def missing_files(root: pathlib.Path) -> list[str]:
    """Those of `FILE_NAMES` that are not in a folder."""
    return [name for name in FILE_NAMES if not (root / name).is_file()]


def _smooth_field(rng: np.random.Generator, wavelength: float, std: float, waves: int = 8) -> Field:
    """A smooth random function of space: a sum of plane waves in random directions."""
    directions = rng.normal(size=(3, waves))
    directions *= 2 * np.pi / wavelength / np.linalg.norm(directions, axis=0)
    directions *= rng.uniform(0.6, 1.4, waves)  # equal wavelengths would beat regularly
    phases = rng.uniform(0, 2 * np.pi, waves)
    amplitude = std * np.sqrt(2 / waves)
    return lambda points: amplitude * np.cos(points @ directions + phases).sum(axis=-1)


def _pack_spheres(extent: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres [N, 3] (z, y, x) and radii [N] of spheres that roughly fill the block."""
    low, high = np.full(3, -REACH), extent + REACH
    room = 1.1 * np.prod(high - low)
    radii = np.empty(0)
    while (4 / 3 * np.pi * radii**3).sum() < room:
        radii = np.append(radii, np.clip(CELL_RADIUS * rng.lognormal(0, 0.6), 7, REACH))
    radii = np.sort(radii)[::-1]  # the large ones first, the small ones into the gaps
    centres = np.empty((len(radii), 3))
    for n, radius in enumerate(radii):
        candidates = rng.uniform(low, high, (24, 3))
        gaps = np.linalg.norm(candidates[:, None] - centres[:n], axis=-1) - radii[:n] - radius
        centres[n] = candidates[np.argmax(gaps.min(axis=1, initial=np.inf))]
    return centres, radii


def _cut_walls(tree: KDTree, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the cells along a plane of points [H, W, 3].

    Returns the cell of each point (int [H, W]), its distance to the nearest wall within the plane,
    and how well that wall is seen, from 0.3 (cut at a grazing angle) to 1 (cut upright).
    """
    query = np.concatenate([points, np.zeros_like(points[..., :1])], axis=-1)
    distance, cells = tree.query(query, k=4)
    centres = tree.data[:, :3]
    across = centres[cells[..., 1:]] - centres[cells[..., :1]]
    span = np.linalg.norm(across, axis=-1)
    to_wall = (distance[..., 1:] ** 2 - distance[..., :1] ** 2) / (2 * span)
    upright = np.sqrt(1 - (across[..., 0] / span) ** 2)
    in_plane = to_wall / np.maximum(upright, 0.6)
    visible = np.clip(1.6 * upright - 0.2, 0.3, 1)
    nearest = in_plane.argmin(axis=-1)[..., None]
    # A soft minimum thickens the membrane where three cells meet and rounds the corners.
    wall = -np.log(np.exp(-in_plane).sum(axis=-1))
    return cells[..., 0], wall, np.take_along_axis(visible, nearest, axis=-1)[..., 0]


def _place_mitochondria(
    centres: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One ellipsoid a cell: centre [N, 3], map onto the unit ball [N, 3, 3], is it there [N]."""
    count = len(centres)
    rotation, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    axes = rng.uniform(0.8, 1.2, (count, 3)) * [0.7, 0.45, 0.45] * np.minimum(radii, 44)[:, None]
    offset = rng.uniform(-0.25, 0.25, (count, 3)) * radii[:, None]
    present = (radii > CELL_RADIUS) & (rng.random(count) < 0.75)
    return centres + offset, rotation / axes[..., None], present


def _mitochondria_darkness(
    mitochondria: tuple[np.ndarray, np.ndarray, np.ndarray], cell: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Grey values [H, W] to take off for matrix, double outline and cristae."""
    centre, to_ball, present = mitochondria
    near = present[cell]
    owner = cell[near]
    ball = np.einsum("pij,pj->pi", to_ball[owner], points[near] - centre[owner])
    scale = 1 / np.linalg.norm(to_ball[owner, 1], axis=-1)  # the middle half-axis, in pixels
    depth = (1 - np.linalg.norm(ball, axis=-1)) * scale  # from the outline inwards
    outline = np.exp(-((depth / 1.1) ** 2)) + 0.7 * np.exp(-(((depth - 3.5) / 1.0) ** 2))
    along = ball @ np.array([1.0, 0.5, 0.3]) * scale
    cristae = np.maximum(np.cos(along + np.sin(depth / 2)), 0) * (depth > 4)
    darkness = np.zeros(cell.shape)
    darkness[near] = 80 * outline + (depth > 0) * (40 + 60 * cristae)
    return darkness


def _cytoplasm(wall: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey values [H, W] to add for vesicles (rings), microtubules (dots) and fine grain."""
    texture = np.zeros(wall.shape)
    for std, sigma in [(40, 1.2), (30, 3.0)]:
        texture += std * sigma * ndimage.gaussian_filter(rng.normal(size=wall.shape), sigma)
    y, x = np.mgrid[-7:8, -7:8]
    room = np.argwhere(wall > 7)
    for radius, width, per_pixel in [(4.5, 1.1, 8e-4), (3, 1.0, 5e-3), (0, 1.3, 5e-3)]:
        stamp = np.exp(-(((np.hypot(y, x) - radius) / width) ** 2))
        spots = np.zeros_like(texture)
        chosen = room[rng.random(len(room)) < per_pixel]
        spots[tuple(chosen.T)] = rng.uniform(20, 100, len(chosen))
        texture -= ndimage.convolve(spots, stamp)
    return texture


def _image(tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Expose a slice of tissue [H, W]: uneven staining, blur, noise; uint8 [H, W]."""
    uneven = ndimage.gaussian_filter(rng.normal(size=tissue.shape), 40, mode="wrap")
    uneven = (uneven - uneven.mean()) / uneven.std()
    contrast = rng.uniform(0.85, 1.15) * (1 + 0.12 * uneven)
    exposed = 130 + rng.normal(0, 8) + 14 * uneven + contrast * (tissue - 140)
    blurred = ndimage.gaussian_filter(exposed, 0.8)
    noise = ndimage.gaussian_filter(rng.normal(size=tissue.shape), 0.6) * 26
    return np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)
