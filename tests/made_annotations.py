"""Annotations as tools write them, of the scenes of `made_cases`, and a call of the command."""

import base64
import io
import itertools
import json
import pathlib
from typing import Any

import numpy as np
from made_cases import PAIRS, SIDE, scene
from made_files import save
from PIL import Image

from unet_jax import prepare

NAMES = [f"case{i:02d}" for i in range(PAIRS)]


def convert(form: str, root: pathlib.Path, output: pathlib.Path, *arguments: str) -> int:
    """The exit code of the command."""
    return prepare.main(
        ["labels", f"--from={form}", f"--root={root}", f"--output={output}", *arguments]
    )


def write_json(path: pathlib.Path, content: Any) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_images(folder: pathlib.Path) -> None:
    for i, name in enumerate(NAMES):
        save(folder / f"{name}.png", scene(i)[0])


def corners_of(box: tuple[int, int, int, int]) -> list[list[float]]:
    """The corners of the pixels from (left, top) to before (right, bottom)."""
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min().item(), rows.min().item(), columns.max() + 1, rows.max().item() + 1


def png_text(mask: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def labelme_file(root: pathlib.Path, i: int, shapes: list[dict], **fields: Any) -> pathlib.Path:
    content = {
        "version": "5.4.1",
        "imagePath": f"{NAMES[i]}.png",
        "imageData": None,
        "imageHeight": SIDE,
        "imageWidth": SIDE,
        "shapes": shapes,
    }
    return write_json(root / f"{NAMES[i]}.json", content | fields)


def shape(label: str, points: list, kind: str = "polygon", **fields: Any) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | fields


def coco_content(**fields: Any) -> dict:
    """Images without annotations, and the categories ring (3) and disk (7)."""
    images = [
        {"id": i, "file_name": f"{name}.png", "height": SIDE, "width": SIDE}
        for i, name in enumerate(NAMES)
    ]
    categories = [{"id": 7, "name": "disk"}, {"id": 3, "name": "ring"}]
    return {"images": images, "annotations": [], "categories": categories} | fields


def feature(name: str | None, kind: str, coordinates: list, **fields: Any) -> dict:
    properties = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = {"type": kind, "coordinates": coordinates} | fields
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties}


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def task(i: int, *results: dict, **fields: Any) -> dict:
    annotation = {"id": i, "result": list(results), "was_cancelled": False}
    data = {"image": f"/data/upload/1/0123abcd-{NAMES[i]}.png"}
    return {"id": i, "data": data, "annotations": [annotation]} | fields


def result(kind: str, label: str | None, value: dict, **fields: Any) -> dict:
    labels = {} if label is None else {kind: [label]}
    return {
        "id": "r1",
        "type": kind,
        "original_width": SIDE,
        "original_height": SIDE,
        "image_rotation": 0,
        "value": value | labels,
    } | fields


def runs(values: np.ndarray) -> list[int]:
    """Lengths of the runs of equal values, which begin with a run of False."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], values, [not values[-1]]])))
    return np.diff(np.concatenate([[0], changes])).tolist()


def compressed(counts: list[int]) -> str:
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            low, value = value & 31, value >> 5
            is_last = value == (-1 if low & 16 else 0)
            text += chr(48 + low + (0 if is_last else 32))
            if is_last:
                break
    return text


def brush(values: np.ndarray, lengths=(3, 4, 8, 16), split: int = 5) -> bytes:
    """Encodes equal values as runs and, where they are `split` or fewer, as single values."""
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    changes = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in itertools.pairwise(changes):
        while start < end:
            count = min(end - start, 2 ** lengths[-1])
            size = next(i for i, length in enumerate(lengths) if count <= 2**length)
            head = f"{size:02b}{count - 1:0{lengths[size]}b}"
            is_run = count > split
            bits += f"{int(is_run)}{head}" + f"{values[start]:08b}" * (1 if is_run else count)
            start += count
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)
