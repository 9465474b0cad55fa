"""Writes small valid files of every supported format; no row of an image is constant."""

import io
import pathlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
import scipy.io
import tifffile
from PIL import Image

from benchmarks.robustness.mutate import png_chunk


def noise(shape: Sequence[int], top: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    """Returns random values from 1 to `top` - 1; no row is constant."""
    return np.random.default_rng(sum(shape)).integers(1, top, shape).astype(dtype)


def save(folder: pathlib.Path, name: str, image: Image.Image, **options: Any) -> None:
    image.save(folder / name, **options)


def _pictures() -> dict[str, Image.Image]:
    grey, rgb = noise((24, 18)), noise((24, 18, 3))
    opaque = np.concatenate([rgb, np.full((24, 18, 1), 255, np.uint8)], axis=2)
    palette = Image.fromarray(noise((24, 18), 21))
    palette.putpalette(noise((256, 3)).tobytes())
    bits = Image.fromarray(noise((24, 200)) > 127)
    both = {"grey": Image.fromarray(grey), "rgb": Image.fromarray(rgb), "bits": bits}
    return both | {"rgba": Image.fromarray(opaque), "palette": palette}


def make_pngs(folder: pathlib.Path) -> None:
    pictures = _pictures()
    for name, image in pictures.items():
        save(folder, f"{name}.png", image, optimize=name == "rgb")
    save(folder, "few.png", pictures["palette"], bits=8, transparency=200)
    for channels in (1, 2, 3, 4):
        sixteen_bit = noise((20, 14, channels), 2**16 - 1, np.uint16)
        sixteen_bit[..., 1 if channels == 2 else 3 :] = 2**16 - 1
        (folder / f"deep-{channels}.png").write_bytes(imagecodecs.png_encode(sixteen_bit.squeeze()))
    (folder / "interlaced.png").write_bytes(interlaced_png(noise((15, 18, 3))))


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Encodes an RGB image [H, W, 3] as a PNG with Adam7 interlacing."""
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    rows = b""
    for top, left, down, right in (*steps, (1, 0, 2, 1)):
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right])
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def make_jpegs(folder: pathlib.Path) -> None:
    pictures, exif = _pictures(), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    for name in ("grey", "rgb"):
        for kind, options in {
            "plain": {},
            "progressive": {"progressive": True},
            "fine": {"quality": 95, "subsampling": 0, "restart_marker_blocks": 1},
            "exif": {"exif": exif, "comment": b"made"},
        }.items():
            save(folder, f"{name}-{kind}.jpg", pictures[name], **options)


def make_bmps(folder: pathlib.Path) -> None:
    for name, image in _pictures().items():
        save(folder, f"{name}.bmp", image)


def make_gifs(folder: pathlib.Path) -> None:
    pictures = _pictures()
    for name in ("grey", "palette", "bits"):
        for interlace in (0, 1):
            save(folder, f"{name}-{interlace}.gif", pictures[name], interlace=interlace)
    save(folder, "comment.gif", pictures["palette"], comment=b"made", transparency=255)


def make_tiffs(folder: pathlib.Path) -> None:
    pictures = _pictures()
    for name, image in pictures.items():
        for codec in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            options: dict[str, Any] = {} if codec == "raw" else {"compression": codec}
            save(folder, f"{name}-{codec}.tif", image, **options)
    save(folder, "rgb-jpeg.tif", pictures["rgb"], compression="jpeg")
    for dtype in (np.uint8, np.uint16):
        bits = np.dtype(dtype).itemsize * 8
        for kind, options in {
            "strips": {"rowsperstrip": 5},
            "tiles": {"tile": (16, 16), "compression": "zlib"},
            "predicted": {"compression": "lzw", "predictor": True, "rowsperstrip": 7},
            "big": {"bigtiff": True, "rowsperstrip": 6},
            "motorola": {"byteorder": ">", "compression": "zlib"},
        }.items():
            settings: dict[str, Any] = options
            grey = noise((33, 21), 255, dtype)
            rgb = noise((33, 21, 3), 255, dtype)
            tifffile.imwrite(folder / f"{kind}-{bits}.tif", grey, **settings)
            tifffile.imwrite(folder / f"{kind}-{bits}-rgb.tif", rgb, photometric="rgb", **settings)
        planes = noise((3, 17, 21), 255, dtype)
        tifffile.imwrite(
            folder / f"planes-{bits}.tif", planes, photometric="rgb", planarconfig="separate"
        )

    planes = noise((4, 17, 21))
    for kind, options in {
        "ome": {"ome": True, "metadata": {"axes": "CYX"}},
        "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
        "rows": {"metadata": {"axes": "YXC"}},
        "turned": {"planarconfig": "separate", "extratags": [(274, 3, 1, 6, True)]},
    }.items():
        full: dict[str, Any] = {"photometric": "minisblack"} | options
        pixels = np.moveaxis(planes, 0, -1) if kind == "rows" else planes
        tifffile.imwrite(folder / f"channels-{kind}.tif", pixels, **full)
    tifffile.imwrite(folder / "float.tif", planes[0].astype(np.float32))


def make_stacks(folder: pathlib.Path) -> None:
    for dtype in (np.uint8, np.uint16):
        stack, bits = noise((4, 19, 23), 255, dtype), np.dtype(dtype).itemsize * 8
        for kind, options in {
            "raw": {},
            "zlib": {"compression": "zlib"},
            "lzw": {"compression": "lzw", "rowsperstrip": 6},
            "tiles": {"tile": (16, 16)},
            "big": {"bigtiff": True},
            "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
            "unlabelled": {"metadata": None},
        }.items():
            full: dict[str, Any] = {"photometric": "minisblack"} | options
            tifffile.imwrite(folder / f"{kind}-{bits}.tif", stack, **full)


def make_mats(folder: pathlib.Path) -> None:
    for kind, shape in {"small": (6, 5), "wide": (20, 33)}.items():
        mask = noise(shape, 21)
        boundaries = np.empty((20, 1), object)
        for i in range(20):
            boundaries[i, 0] = scipy.sparse.csc_matrix(mask == i + 1)
        parts = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": [[1.0]]}
        for packed in (True, False):
            path = folder / f"{kind}-{packed}.mat"
            scipy.io.savemat(path, {"GTcls": parts}, do_compression=packed)


def _contents() -> dict[str, bytes]:
    return {"top/a.txt": b"one\n" * 50, "top/b.bin": bytes(range(256)), "c": b"", "d": b"4"}


def make_zips(folder: pathlib.Path) -> None:
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / f"kind-{kind}.zip", "w", kind) as file:
            for name, content in _contents().items():
                file.writestr(name, content)


def make_tars(folder: pathlib.Path) -> None:
    for suffix in ("tar", "tgz"):
        for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            mode = "w:gz" if suffix == "tgz" else "w"
            with tarfile.open(folder / f"kind-{kind}.{suffix}", mode, format=kind) as file:
                for name, content in (_contents() | {"é" * 60 + "/" + "x" * 70: b"5"}).items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
