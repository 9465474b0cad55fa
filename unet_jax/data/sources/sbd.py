"""Prepares the training list `trainaug` of PASCAL VOC 2012 with the labels of SBD.

SBD, the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011), has masks for many more of VOC's
images.

python -m unet_jax.prepare voc --root=data/voc --download

It reads, from the folder --root,

    VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt}
    VOCdevkit/VOCaug/dataset/{cls, train.txt, val.txt}

and writes a palette PNG for each mask, and the list of training images:

    VOCdevkit/VOC2012/SegmentationClassAug/ID.png
    VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt

If both data sets label an image, SBD's mask is used. Pixels are copied unchanged: VOC's masks have
void borders (255), SBD's have none. `trainaug` is all of SBD and VOC's train without VOC's val:
10,582 ids of 12,031 masks.

Existing masks are kept, so that rerunning the command resumes it; delete a mask to have it written
again. A mask that cannot be made does not stop the others: its id is left out of `trainaug`, and
its file is listed at the end and in VOC2012/SegmentationClassAug.faults.txt.
"""

import argparse
import concurrent.futures
import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
from PIL import Image

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.files import expand, write_all
from unet_jax.core.progress import track
from unet_jax.data.download import archives
from unet_jax.data.files.images import list_values, scan_size
from unet_jax.data.files.masks import read_mask
from unet_jax.data.files.matlab import read_mat
from unet_jax.data.sources.registry import PREPARATIONS, Preparation
from unet_jax.data.sources.voc import CLASSES, read_ids

SHOWN = 20  # the most faults that are printed; the fault file has all of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this preparation."""
    parser.add_argument("--root", required=True, help="folder of the data set, its data.root")
    parser.add_argument("--download", action="store_true", help="download missing data")
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count(), help="number of threads"
    )


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give at least 1")
    return value


def prepare_voc(options: argparse.Namespace) -> list[str]:
    """Writes the missing masks and `trainaug.txt`.

    Args:
      options: the parsed arguments: the folder of VOCdevkit/, whether to download missing data, and
        the number of threads.

    Returns:
      One line for each mask that could not be made.

    Raises:
      UserError: a part of VOC or SBD is missing or cannot be downloaded, or a list is invalid.
    """
    root = pathlib.Path(expand(options.root))
    for name in ("voc", "sbd"):
        if options.download:
            archives.fetch(name, root)
        check_complete(name, root)
    voc = root / "VOCdevkit" / "VOC2012"
    folder, fault_file = voc / "SegmentationClassAug", voc / "SegmentationClassAug.faults.txt"
    sources, trainaug = plan_voc(root)
    folder.mkdir(exist_ok=True)
    there = {path.stem for path in folder.glob("*.png")}
    missing = [name for name in sources if name not in there]
    print(f"{folder}: {len(missing)} of {len(sources)} masks to make", flush=True)
    pool = concurrent.futures.ThreadPoolExecutor(options.workers)
    try:
        results = pool.map(
            make_mask,
            [sources[name] for name in missing],
            [voc / "JPEGImages" / f"{name}.jpg" for name in missing],
            [folder / f"{name}.png" for name in missing],
        )
        tracked = track(results, len(missing), "making", "masks")
        with contextlib.closing(tracked):  # removes the bar
            faults = {name: x for name, x in zip(missing, tracked, strict=True) if x}
    finally:
        pool.shutdown(cancel_futures=True)  # without this, Ctrl-C would wait for all of them
    ids, lines = [name for name in trainaug if name not in faults], [*faults.values()]
    _write_lines(voc / "ImageSets" / "Segmentation" / "trainaug.txt", ids)
    print(f"trainaug.txt: {len(ids)} ids")
    if not faults:
        fault_file.unlink(missing_ok=True)
        return []
    _write_lines(fault_file, lines)
    print(*lines[:SHOWN], *["..."] * (len(lines) > SHOWN), sep="\n", file=sys.stderr)
    print(
        f"error: {len(lines)} of {len(sources)} masks cannot be made, and trainaug.txt leaves "
        f"out their ids; fix the files listed in {fault_file} and run again",
        file=sys.stderr,
    )
    return lines


def check_complete(name: str, root: pathlib.Path) -> None:
    """Raises a `UserError` for the first missing part of the published data set `name`."""
    archive = archives.ARCHIVES[name]
    for place in archive.complete:
        if not (root / place).exists():
            [(source, target)] = archive.layout.items()
            raise UserError(
                f"{root / place}: no such {'list' if place.endswith('.txt') else 'folder'}; use "
                f"--download, or unpack {archive.url} so that its {source} is {root / target}"
            )


def plan_voc(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
    """Returns the source file of each id's mask, and the training ids; both sorted by id."""
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOCaug" / "dataset"
    train, val = (set(read_ids(voc / f"ImageSets/Segmentation/{x}.txt")) for x in ("train", "val"))
    listed = {*read_ids(sbd / "train.txt"), *read_ids(sbd / "val.txt")}
    mats = {path.stem for path in sbd.glob("cls/*.mat") if not path.name.startswith(".")}
    sources = {name: voc / "SegmentationClass" / f"{name}.png" for name in train | val}
    sources |= {name: sbd / "cls" / f"{name}.mat" for name in listed | mats}
    # SBD's split differs from VOC's: both of its parts have images of VOC's val.
    return dict(sorted(sources.items())), sorted((listed | train) - val)


def make_mask(source: pathlib.Path, image: pathlib.Path, target: pathlib.Path) -> str | None:
    """Writes a mask as a palette PNG; returns one line if its source is invalid.

    Args:
      source: SBD's .mat file or VOC's .png file.
      image: the JPEG image, which must have the mask's size.
      target: the PNG file to write.
    """
    try:
        mask = read_mat(source) if source.suffix == ".mat" else read_mask(source)
        size = scan_size(image)
        if mask.shape != size:
            found, expected = ("x".join(map(str, shape)) for shape in (mask.shape, size))
            raise UserError(f"{source}: {found}, but {image} has {expected}, height x width")
        values = np.unique(mask)
        beyond = values[(values >= len(CLASSES)) & (values != IGNORED)]
        if len(beyond):
            raise UserError(
                f"{source}: values {list_values(beyond)}; expected class ids 0 to "
                f"{len(CLASSES) - 1}, or {IGNORED} = void"
            )
    except UserError as error:
        return " ".join(str(error).split())
    picture, content = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(colour_map().tobytes())
    picture.save(content, "PNG")
    write_all({target: content.getvalue()})
    return None


def colour_map() -> np.ndarray:
    """Returns PASCAL's colours of the ids 0 to 255, uint8 [256, 3].

    An id's bits go in turn to red, green and blue, from the highest bit of each down.
    """
    ids, colours = np.arange(256), np.zeros((256, 3), int)
    for bit in range(8):
        colours[:, bit % 3] |= (ids >> bit & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


def _write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    if not path.exists() or path.read_bytes() != content:
        write_all({path: content})


PREPARATIONS.register("voc")(Preparation(add_arguments, prepare_voc))
