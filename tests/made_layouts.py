"""Tiny data sets in the layouts of public ones, each with what makes its layout special.

Each function writes a folder, and returns what its owner would expect to be read: the pixels
[H, W, C] and the labels [H, W] of each image, by name. 255 is ignored.
"""

import hashlib
import pathlib

import numpy as np
import tifffile
from made_files import save
from PIL import Image

SIDES = ((48, 48), (40, 56))  # height and width, in turn, where a data set has images of many sizes
IGNORED = 255

Truth = dict[str, tuple[np.ndarray, np.ndarray]]


def discs(i: int, count: int, size: tuple[int, int] = SIDES[0]) -> np.ndarray:
    """Returns a map of `count` round objects, which are numbered from 1; some touch each other."""
    rng = np.random.default_rng(i)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    ids = np.zeros(size, np.uint16)
    places = rng.permutation((height // 10) * (width // 10))[:count]
    for number, place in enumerate(places, 1):
        row, column = (10 * k + 5 for k in divmod(int(place), width // 10))
        ids[(np.hypot(rows - row, columns - column) < 5.5) & (ids == 0)] = number
    return ids


def colours(i: int, mask: np.ndarray) -> np.ndarray:
    """Returns a noisy RGB image, uint8, that is brighter where the mask is not 0."""
    noise = np.random.default_rng(i).integers(0, 100, (*mask.shape, 3))
    return (noise + 120 * (mask > 0)[..., None]).astype(np.uint8)


def save_jpeg(path: pathlib.Path, pixels: np.ndarray) -> np.ndarray:
    """Writes a JPEG; returns its pixels, which compression changed."""
    with Image.open(save(path, pixels, quality=90)) as image:
        return np.array(image)


def nuclei(root: pathlib.Path) -> Truth:
    """One file per object, as in the 2018 Data Science Bowl: RGBA images of many sizes."""
    truth = {}
    for i in range(10):
        ids = discs(i, 4 + i % 3, SIDES[i % 2])
        pixels, name = colours(i, ids), hashlib.sha256(bytes([i])).hexdigest()
        folder = root / "stage1_train" / name
        opaque = np.full((*ids.shape, 1), 255, np.uint8)
        save(folder / "images" / f"{name}.png", np.concatenate([pixels, opaque], -1))
        for number in range(1, int(ids.max()) + 1):
            mask = hashlib.sha256(bytes([i, number])).hexdigest()
            save(folder / "masks" / f"{mask}.png", np.uint8(255) * (ids == number))
        truth[name] = pixels, (ids > 0).astype(np.uint8)
    return truth


def camvid(root: pathlib.Path) -> Truth:
    """CamVid's folders and lists of paths; masks are palette indices, of which 11 is void."""
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    rows, columns = np.mgrid[:48, :48]
    truth = {}
    for i in range(11):
        part = "val" if i in (3, 7) else "test" if i in (2, 5, 8) else "train"
        ids = ((rows // 4 + columns // 12 + i) % 12).astype(np.uint8)
        pixels, name = colours(i, ids), f"0001TP_{6690 + 30 * i:06d}"
        save(root / "camvid" / part / f"{name}.png", pixels)
        save(root / "camvid" / f"{part}annot" / f"{name}.png", ids, palette)
        line = f"/SegNet/CamVid/{part}/{name}.png /SegNet/CamVid/{part}annot/{name}.png\n"
        with open(root / "camvid" / f"{part}.txt", "a") as paths:
            paths.write(line)
        truth[name] = pixels, np.where(ids == 11, IGNORED, ids)
    return truth


def streets(root: pathlib.Path) -> Truth:
    """Colour masks, whose tool does not order its classes by the numbers of their colours."""
    order = np.array(
        [(0, 0, 0), (0xFA, 0x32, 0x53), (0x33, 0xDD, 0xFF), (0x24, 0xB3, 0x53)], np.uint8
    )
    truth = {}
    for i in range(10):
        ids = np.minimum(discs(i, 3 + i % 4), 3)
        name = f"frame_{i:06d}"
        pixels = save_jpeg(root / "streets" / "images" / f"{name}.jpg", colours(i, ids))
        save(root / "streets" / "masks" / f"{name}.png", order[ids])
        truth[name] = pixels, ids.astype(np.uint8)
    return truth


def cracks(root: pathlib.Path) -> Truth:
    """Thin cracks: 1 is the road and 2 a crack, which not every image has."""
    truth = {}
    for i in range(12):
        crack = np.zeros((48, 48), bool)
        if i != 4:
            steps = np.random.default_rng(i).integers(-1, 2, 48)
            crack[np.arange(48), np.clip(24 + np.cumsum(steps), 0, 47)] = True
        name = f"{i + 1:03d}"
        pixels = save_jpeg(root / "cracks" / "image" / f"{name}.jpg", colours(i, ~crack))
        save(root / "cracks" / "gt" / f"{name}.png", crack.astype(np.uint8) + 1)
        truth[name] = pixels, crack.astype(np.uint8)
    return truth


def polyps(root: pathlib.Path) -> Truth:
    """JPEG masks of three channels, with values between black and white at the edges."""
    truth = {}
    for i in range(10):
        inside = discs(i, 5, SIDES[i % 2]) > 0
        name = f"cju{i}"
        pixels = save_jpeg(root / "polyps" / "images" / f"{name}.jpg", colours(i, inside))
        mask = np.repeat(np.uint8(255) * inside[..., None], 3, axis=2)
        stored = save_jpeg(root / "polyps" / "masks" / f"{name}.jpg", mask)
        assert len(np.unique(stored)) > 8
        truth[name] = pixels, inside.astype(np.uint8)
    (root / "polyps" / "boxes.json").write_text("{}")
    return truth


def fluorescence(root: pathlib.Path) -> Truth:
    """16-bit images that use 120 to 420 of 65,535; masks of 0 and 255."""
    truth = _fluorescence(root / "wells", "{}", lambda ids: np.uint8(255) * (ids > 0))
    (root / "wells" / "images" / "Thumbs.db").write_bytes(b"made by Windows")
    return truth


def instances(root: pathlib.Path) -> Truth:
    """The same images; masks number the objects of each image, as Cellpose writes them."""
    return _fluorescence(root / "cells", "{}_cp_masks", lambda ids: ids)


def _fluorescence(root: pathlib.Path, mask_name: str, to_mask) -> Truth:
    truth = {}
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(10):
        ids, name = discs(i, 9 + i % 4), f"well_{i:02d}"
        noise = np.random.default_rng(i).integers(0, 80, ids.shape, np.uint16)
        pixels = noise + np.where(ids > 0, np.uint16(340), np.uint16(120))
        tifffile.imwrite(root / "images" / f"{name}.tif", pixels, photometric="minisblack")
        mask = to_mask(ids)
        tifffile.imwrite(
            root / "masks" / f"{mask_name.format(name)}.tif", mask, photometric="minisblack"
        )
        truth[name] = pixels[..., None], (ids > 0).astype(np.uint8)
    return truth
