"""A small data set for tests of the index of checked files, and what damages its index."""

import json
import pathlib
import time

from made_files import noise, save
from ml_collections import ConfigDict

from configs import folder as folder_config
from unet_jax.data.dataset import Dataset
from unet_jax.data.files import index

TICK_NS = 20 * 10**6  # longer than the granularity of times of change here


def wait() -> None:
    """Waits until the files that were written before are indexed when they are checked."""
    time.sleep(1.5 * TICK_NS / 1e9)


def options(root: pathlib.Path) -> ConfigDict:
    data = folder_config.get_config().data
    data.root, data.split = str(root), ()
    return data


def write_pair(root: pathlib.Path, name: str, seed: int = 0) -> None:
    """Writes an image and a mask whose files have the same sizes for all seeds."""
    save(root / "images" / f"{name}.png", noise((8, 6, 3), seed=seed), compress_level=0)
    mask = noise((8, 6), seed=seed, below=2) * 255
    mask[0, :2] = 0, 255
    save(root / "masks" / f"{name}.png", mask, compress_level=0)


def index_files(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    return [*(tmp_path / "cache" / "unet_jax" / "checked").glob("*.json")]


def describe(dataset: Dataset) -> tuple:
    """All that is known of a data set without reading its files."""
    splits = {part: (split.names, split.sizes) for part, split in dataset.splits.items()}
    return splits, dataset.classes, dataset.channels, dataset.sha256, dataset.notes


def damage(content: bytes, kind: int) -> bytes:
    """Changes the content of an index as a crash, another program or another version might."""
    if kind == 0:
        return content[: len(content) // 2]
    if kind == 1:
        return content.replace(b"255", b"254", 1)
    if kind == 2:
        return b"\xff\x00nonsense"
    try:
        body = json.loads(content.partition(b"\n")[2])
    except ValueError:  # damaged before
        return b""
    body["checks"][0] += 1
    for rows in body["files"].values():
        for row in rows:
            row[-1] = None
    body = json.dumps(body).encode()
    return index._seal(body) + body
