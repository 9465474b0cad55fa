"""All readers of the project for the fuzzer, with valid files of every kind that they accept."""

import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.robustness import mutate
from benchmarks.robustness.giants import giant
from benchmarks.robustness.judges import (
    Reader,
    judge_cut,
    judge_files,
    judge_mat,
    judge_nothing,
    judge_pixels,
    judge_png,
    judge_sealed,
    judge_state,
    judge_tar,
    judge_tiff,
)
from benchmarks.robustness.mutate import BYTES, JSON, TEXT
from benchmarks.robustness.run_readers import (
    judge_history,
    judge_state_dict,
    make_checkpoints,
    make_maps,
    make_run,
    make_state_dicts,
    read_checkpoints,
    read_config,
    read_maps,
    read_metrics,
    read_report,
    read_split,
    read_state_dict,
)
from benchmarks.robustness.samples import (
    make_bmps,
    make_gifs,
    make_jpegs,
    make_mats,
    make_pngs,
    make_stacks,
    make_tars,
    make_tiffs,
    make_zips,
    noise,
    save,
)
from unet_jax.core.errors import UserError
from unet_jax.data.download.unpack import unpack
from unet_jax.data.files.images import read_image, scan_image
from unet_jax.data.files.masks import read_mask, scan_mask
from unet_jax.data.files.matlab import read_mat
from unet_jax.data.files.pages import open_pages, scan_pages
from unet_jax.data.files.tiff import read_tiff

ROOM = 2**22  # limit of the unpacked size of an archive, in bytes


# Readers of images.


def _read_picture(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Scans and reads a file as an image and as a mask, as data sets do."""
    found = scan_image(path)
    channels = 3 if found.channels == 1 else found.channels
    image = read_image(path, channels)
    if image.shape != (*found.size, channels) or image.dtype.name != found.dtype:
        raise AssertionError(f"scanned as {found}, read as {image.dtype} {image.shape}")
    try:
        about = scan_mask(path)
        mask = read_mask(path)
    except UserError as error:
        if "\n" in str(error):
            raise
        return image, None
    if mask.shape[:2] != about.size:
        raise AssertionError(f"scanned as {about.size}, read as {mask.shape}")
    return image, mask


# Reader of archives.


def _read_archive(path: pathlib.Path, folder: pathlib.Path) -> dict[str, bytes]:
    out = folder.with_name("unpacked") / "out"
    out.mkdir(parents=True)
    try:
        unpack(path, out, ROOM)
        outside = [x for x in out.parent.iterdir() if x != out]
        if outside or any(x.is_symlink() for x in out.rglob("*")):
            raise AssertionError(f"{outside} written outside the folder, or a link")
        files = [x for x in out.rglob("*") if x.is_file()]
        return {str(x.relative_to(out)): x.read_bytes() for x in files}
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


# Readers of text files.


def make_lists(folder: pathlib.Path) -> None:
    """Writes a small VOC data set, and an image outside it that a hostile id could name."""
    home = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / name).mkdir(parents=True)
    ids = [f"2007_00{i:04d}" for i in range(6)]
    for name in ids:
        Image.fromarray(noise((8, 9, 3))).save(home / "JPEGImages" / f"{name}.jpg")
        save(home / "SegmentationClass", f"{name}.png", Image.fromarray(noise((8, 9), 21)))
    (folder.with_name("2007_secret.jpg")).write_bytes(b"")
    for name, part in (("train", ids[:4]), ("val", ids[4:])):
        (home / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(part) + "\n")


def _read_lists(_: pathlib.Path, folder: pathlib.Path) -> Any:
    from configs import voc
    from unet_jax.data.sources.voc import open_voc

    data = voc.get_config().data
    data.root, data.split, data.download = str(folder), (), False
    splits = open_voc(data).splits
    names = {part: split.names for part, split in splits.items()}
    if any("/" in name or "." in name for part in names.values() for name in part):
        raise AssertionError(f"ids that point outside the folder: {names}")
    return names


def make_classes(folder: pathlib.Path) -> None:
    """Writes a folder data set of three images with `classes.txt`."""
    for kind, pixels in (("images", noise((8, 9, 3))), ("masks", noise((8, 9), 3) - 1)):
        (folder / kind).mkdir()
        for i in range(3):
            save(folder / kind, f"{i}.png", Image.fromarray(pixels))
    (folder / "classes.txt").write_text("ground\nroad\n", encoding="utf-8-sig")


def _read_classes(_: pathlib.Path, folder: pathlib.Path) -> Any:
    from configs import folder as own
    from unet_jax.data.sources.folder import open_folder

    data = own.get_config().data
    data.root, data.split = str(folder), ()
    return open_folder(data).classes


def _file(read: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path, pathlib.Path], Any]:
    return lambda path, _: read(path)


def _stack(path: pathlib.Path, _: pathlib.Path) -> Any:
    return [read_tiff(path)]


def _read_pages(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Reads each page in bands of rows, as prediction does."""
    sizes, found = scan_pages(path), []
    with open_pages(path, channels=3) as pages:
        for size, page in zip(sizes, pages, strict=True):
            if page.size != size or math.prod(size) > 2**24:
                raise UserError(f"{path}: a page of {page.size}, scanned as {size}")
            tops = range(0, size[0], 7)
            bands = [page.rows(top, min(top + 7, size[0])) for top in tops]
            found.append(np.concatenate(bands))
            if found[-1].shape[:2] != size:
                raise AssertionError(f"{found[-1].shape} of {size}")
    return found


JPEG, TIFF = (*BYTES, *[mutate.jpeg] * 9, *[giant] * 3), (*BYTES, *[mutate.tiff] * 9, *[giant] * 5)
READERS = {
    "png": Reader(make_pngs, _read_picture, judge_png, repaired=(mutate.png, mutate.png, giant)),
    "jpeg": Reader(
        make_jpegs, _read_picture, judge_cut, (*BYTES, *[mutate.jpeg] * 9, *[giant] * 3)
    ),
    "bmp": Reader(make_bmps, _read_picture, judge_pixels, (*BYTES, *[giant] * 3)),
    "gif": Reader(make_gifs, _read_picture, judge_cut, (*BYTES, *[giant] * 3)),
    "tiff": Reader(make_tiffs, _read_picture, judge_tiff, TIFF),
    "stack": Reader(make_stacks, _stack, judge_pixels, TIFF),
    "pages": Reader(make_stacks, _read_pages, judge_cut, TIFF),
    "mat": Reader(make_mats, _file(read_mat), judge_mat, repaired=(mutate.mat,)),
    "zip": Reader(make_zips, _read_archive, judge_files, repaired=(mutate.zipped,)),
    "tar": Reader(make_tars, _read_archive, judge_tar, repaired=(mutate.tar,)),
    "list": Reader(make_lists, _read_lists, judge_nothing, TEXT, targets="**/*.txt"),
    "classes": Reader(make_classes, _read_classes, judge_nothing, TEXT, targets="*.txt"),
    "config": Reader(make_run, read_config, judge_cut, JSON, targets="*/config.json"),
    "split": Reader(make_run, read_split, judge_cut, JSON, targets="*/split.json"),
    "history": Reader(make_run, read_metrics, judge_history, JSON, targets="*/metrics.jsonl"),
    "report": Reader(make_run, read_report, judge_cut, JSON, targets="*/report.json"),
    "checkpoint": Reader(make_checkpoints, read_checkpoints, judge_state, JSON),
    "weights": Reader(make_maps, read_maps, judge_sealed),
    "state_dict": Reader(make_state_dicts, read_state_dict, judge_state_dict),
}
