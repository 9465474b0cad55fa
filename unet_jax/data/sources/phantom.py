"""The demo data set: a synthetic electron-microscopy stack similar to ISBI 2012.

The tissue is a packing of spheres in three dimensions. Their power diagram defines the cells, which
a smooth warp bends, and every slice is a planar section through them. Neighbouring slices are
therefore similar, and a membrane that meets the section plane at a grazing angle appears broad and
faint, as in a real section. All lengths are in pixels.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import scipy
import tifffile
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.data.sources.isbi import LABELS, VOLUME, open_isbi
from unet_jax.data.sources.registry import register

FILE_NAMES = (VOLUME, LABELS)

MEMBRANE, CELL = 0, 255
SECTION_STEP = 3.0  # distance between neighbouring slices
CELL_RADIUS = 17.0  # median radius of the packed spheres
REACH = 60.0  # margin of tissue around the block, so that cells at its border have neighbours
MEMBRANE_SHARE = 0.215  # mean share of membrane pixels in a slice

Field = Callable[[np.ndarray], np.ndarray]  # maps points, float [..., 3], to values, float [...]


@register("phantom")
def open_phantom(data: ConfigDict) -> Dataset:
    """Opens synthetic stacks of the same format, made by `generate`.

    If `data.download` is set, missing stacks are generated.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, as `open_isbi`.

    Raises:
      UserError: the stacks are missing, damaged or do not fit each other.
    """
    root = pathlib.Path(data.root)
    if data.download:
        write(root)
    elif missing := missing_files(root):
        raise UserError(
            f"{' and '.join(missing)} not found in the folder {root}; train or inspect with "
            f"--config.data.download=True to generate them, or name their folder with "
            f"--config.data.root=..."
        )
    return open_isbi(data)


def generate(slices: int = 30, size: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generates a stack of slices and its labels; the same arguments give the same bytes.

    Args:
      slices: number of slices S, at least 1.
      size: height H and width W of a slice in pixels, at least 64 (a few cells across).
      seed: seed of all random numbers.

    Returns:
      The volume, uint8 [S, H, W] grey values with dark membranes, and the labels, uint8 [S, H, W],
      0 = membrane and 255 = cell. Membranes cover 18-25 % of every slice.

    Raises:
      ValueError: `slices` or `size` is below its minimum.
    """
    if slices < 1 or size < 64:
        raise ValueError(f"need slices >= 1 and size >= 64, got slices={slices}, size={size}")
    rng = np.random.default_rng(seed)
    extent = np.array([(slices - 1) * SECTION_STEP, size, size])
    centres, radii = _pack_spheres(extent, rng)
    mitochondria = _place_mitochondria(centres, radii, rng)
    # A power diagram is a section of the Voronoi diagram of points lifted by one dimension.
    lifted = np.column_stack([centres, np.sqrt(radii.max() ** 2 - radii**2)])
    tree = scipy.spatial.KDTree(lifted)
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
        # The half-width is a quantile, so that the class balance is similar in all slices.
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
    """Writes the stack of `generate` to a folder under the file names of ISBI 2012.

    The files are multi-page TIFFs with one page per slice. If both exist, they are kept. They are
    written to a temporary folder beside `root`, which is then renamed, so that `root` never has one
    file only. If several processes write at once, the first to finish wins.

    Args:
      root: folder to create, with its parents if they are missing.
      slices: as in `generate`.
      size: as in `generate`.
      seed: as in `generate`.

    Raises:
      UserError: `root` exists and contains anything but the complete set.
      ValueError: as in `generate`.
      OSError: the files cannot be written.
    """
    root = root.resolve()
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        missing = missing_files(root)
        if not missing:
            return
        raise UserError(
            f"{root}: contains files, but no {' and '.join(missing)}; remove what is there or name "
            f"another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        # The temporary folder is private to its owner; a new folder in it has default permissions.
        built = pathlib.Path(temporary) / root.name
        built.mkdir()
        for name, stack in zip(FILE_NAMES, generate(slices, size, seed), strict=True):
            tifffile.imwrite(built / name, stack, photometric="minisblack")
        try:
            os.rename(built, root)
        except OSError:
            if missing_files(root):  # otherwise another process was first
                raise


def missing_files(root: pathlib.Path) -> list[str]:
    """Returns those of `FILE_NAMES` that are not in a folder."""
    return [name for name in FILE_NAMES if not (root / name).is_file()]


def _smooth_field(rng: np.random.Generator, wavelength: float, std: float, waves: int = 8) -> Field:
    """Returns a smooth random function of space: a sum of plane waves in random directions."""
    directions = rng.normal(size=(3, waves))
    directions *= 2 * np.pi / wavelength / np.linalg.norm(directions, axis=0)
    directions *= rng.uniform(0.6, 1.4, waves)  # equal wavelengths would give a regular pattern
    phases = rng.uniform(0, 2 * np.pi, waves)
    amplitude = std * np.sqrt(2 / waves)
    return lambda points: amplitude * np.cos(points @ directions + phases).sum(axis=-1)


def _pack_spheres(extent: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres [N, 3] (z, y, x) and radii [N] of spheres that roughly fill the block."""
    low, high = np.full(3, -REACH), extent + REACH
    room = 1.1 * np.prod(high - low)
    radii = np.empty(0)
    while (4 / 3 * np.pi * radii**3).sum() < room:
        radii = np.append(radii, np.clip(CELL_RADIUS * rng.lognormal(0, 0.6), 7, REACH))
    radii = np.sort(radii)[::-1]  # large spheres are placed first, small ones fill the gaps
    centres = np.empty((len(radii), 3))
    for n, radius in enumerate(radii):
        candidates = rng.uniform(low, high, (24, 3))
        gaps = np.linalg.norm(candidates[:, None] - centres[:n], axis=-1) - radii[:n] - radius
        centres[n] = candidates[np.argmax(gaps.min(axis=1, initial=np.inf))]
    return centres, radii


def _cut_walls(
    tree: "scipy.spatial.KDTree", points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the cells along a surface of points [H, W, 3].

    Returns:
      The cell of each point, int [H, W]; its distance to the nearest wall within the surface in
      pixels, float [H, W]; and the visibility of that wall, float [H, W], from 0.3 (cut at a
      grazing angle) to 1 (cut at a right angle).
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
    # The soft minimum thickens the membrane where three cells meet and rounds the corners.
    wall = -np.log(np.exp(-in_plane).sum(axis=-1))
    return cells[..., 0], wall, np.take_along_axis(visible, nearest, axis=-1)[..., 0]


def _place_mitochondria(
    centres: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places an ellipsoid per cell: centre [N, 3], map to the unit ball [N, 3, 3], presence [N]."""
    count = len(centres)
    rotation, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    axes = rng.uniform(0.8, 1.2, (count, 3)) * [0.7, 0.45, 0.45] * np.minimum(radii, 44)[:, None]
    offset = rng.uniform(-0.25, 0.25, (count, 3)) * radii[:, None]
    present = (radii > CELL_RADIUS) & (rng.random(count) < 0.75)
    return centres + offset, rotation / axes[..., None], present


def _mitochondria_darkness(
    mitochondria: tuple[np.ndarray, np.ndarray, np.ndarray], cell: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Returns grey values [H, W] to subtract for the matrix, double membrane and cristae."""
    centre, to_ball, present = mitochondria
    near = present[cell]
    owner = cell[near]
    ball = np.einsum("pij,pj->pi", to_ball[owner], points[near] - centre[owner])
    scale = 1 / np.linalg.norm(to_ball[owner, 1], axis=-1)  # the middle semi-axis in pixels
    depth = (1 - np.linalg.norm(ball, axis=-1)) * scale  # from the outline inwards, in pixels
    outline = np.exp(-((depth / 1.1) ** 2)) + 0.7 * np.exp(-(((depth - 3.5) / 1.0) ** 2))
    along = ball @ np.array([1.0, 0.5, 0.3]) * scale
    cristae = np.maximum(np.cos(along + np.sin(depth / 2)), 0) * (depth > 4)
    darkness = np.zeros(cell.shape)
    darkness[near] = 80 * outline + (depth > 0) * (40 + 60 * cristae)
    return darkness


def _cytoplasm(wall: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns grey values [H, W] to add for vesicles (rings), microtubules (dots) and grain."""
    texture = np.zeros(wall.shape)
    for std, sigma in [(40, 1.2), (30, 3.0)]:
        texture += std * sigma * scipy.ndimage.gaussian_filter(rng.normal(size=wall.shape), sigma)
    y, x = np.mgrid[-7:8, -7:8]
    room = np.argwhere(wall > 7)
    for radius, width, per_pixel in [(4.5, 1.1, 8e-4), (3, 1.0, 5e-3), (0, 1.3, 5e-3)]:
        stamp = np.exp(-(((np.hypot(y, x) - radius) / width) ** 2))
        spots = np.zeros_like(texture)
        chosen = room[rng.random(len(room)) < per_pixel]
        spots[tuple(chosen.T)] = rng.uniform(20, 100, len(chosen))
        texture -= scipy.ndimage.convolve(spots, stamp)
    return texture


def _image(tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates imaging of a slice [H, W]: uneven staining, blur, noise; returns uint8 [H, W]."""
    uneven = scipy.ndimage.gaussian_filter(rng.normal(size=tissue.shape), 40, mode="wrap")
    uneven = (uneven - uneven.mean()) / uneven.std()
    contrast = rng.uniform(0.85, 1.15) * (1 + 0.12 * uneven)
    exposed = 130 + rng.normal(0, 8) + 14 * uneven + contrast * (tissue - 140)
    blurred = scipy.ndimage.gaussian_filter(exposed, 0.8)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=tissue.shape), 0.6) * 26
    return np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)
