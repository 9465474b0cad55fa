"""One-time preparation of a data set: python -m unet_jax.prepare voc --root=DATA_ROOT [--download]

Makes the training set `trainaug` of PASCAL VOC 2012 and SBD, the Semantic Boundaries Dataset
(Hariharan et al., ICCV 2011), which has masks for many more of VOC's images. From

    VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt}
    VOCdevkit/VOCaug/dataset/{cls, train.txt, val.txt}

it writes a palette PNG for every mask, and the list of what to train on:

    VOCdevkit/VOC2012/SegmentationClassAug/ID.png
    VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt

Where both label an image, SBD's mask is taken; VOC's fill in the others. Their pixels are kept:
VOC's have void borders (255), SBD's have none. `trainaug` is all of SBD and VOC's train, less VOC's
val: 10,582 ids of 12,031 masks.

A mask that is there is kept, so the same command goes on after a kill; delete one to have it made
again. One that cannot be made does not stop the rest: its id is left out of `trainaug`, and it is
named at the end and in VOC2012/SegmentationClassAug.faults.txt.
"""

import argparse
import concurrent.futures
import io
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import rich.console
import rich.progress
from PIL import Image

from unet_jax import IGNORED
from unet_jax.data import download
from unet_jax.data.images import list_values, read_mask, scan_image
from unet_jax.data.matlab import read_mat
from unet_jax.data.voc import CLASSES, read_ids
from unet_jax.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.files import expand, write_all
from unet_jax.streams import make_lasting

EXIT_FAULTS = 1
LINES_EVERY = 1000  # masks, where there is no terminal
SHOWN = 20  # faults that are printed; the file has them all


def main(arguments: Sequence[str]) -> int:
    """Prepares; returns 0, 1 if masks could not be made, 2 for a wrong use, 75 if stopped."""
    parser = argparse.ArgumentParser(
        "python -m unet_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=["voc"])
    parser.add_argument("--root", required=True, help="has VOCdevkit/")
    parser.add_argument("--download", action="store_true", help="fetch what is missing")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers={options.workers}: give at least 1")
    try:
        root = pathlib.Path(expand(options.root))
        for name in ("voc", "sbd"):
            if options.download:
                download.fetch(name, root)
            check_complete(name, root)
        return EXIT_FAULTS if prepare_voc(root, options.workers) else 0
    except (UserError, OSError) as error:
        disk = isinstance(error, OSError)
        hint = "; make room, or check the permissions, and run again" if disk else ""
        return print_error(f"{error}{hint}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return EXIT_INTERRUPTED


def check_complete(name: str, root: pathlib.Path) -> None:
    """Raises a `UserError` for a part of the published set that is not there."""
    archive = download.ARCHIVES[name]
    for place in archive.complete:
        if not (root / place).exists():
            [(inside, home)] = archive.layout.items()
            raise UserError(
                f"{root / place}: no such {'list' if place.endswith('.txt') else 'folder'}; fetch "
                f"it with --download, or unpack {archive.url} so that {root / home} is its {inside}"
            )


def prepare_voc(root: pathlib.Path, workers: int) -> list[str]:
    """Makes what is missing of the masks, and `trainaug.txt`; returns a line for each fault."""
    voc = root / "VOCdevkit" / "VOC2012"
    folder, fault_file = voc / "SegmentationClassAug", voc / "SegmentationClassAug.faults.txt"
    sources, trainaug = plan_voc(root)
    folder.mkdir(exist_ok=True)
    there = {path.stem for path in folder.glob("*.png")}
    missing = [name for name in sources if name not in there]
    print(f"{folder}: {len(missing)} of {len(sources)} masks to make", flush=True)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        results = pool.map(
            make_mask,
            [sources[name] for name in missing],
            [voc / "JPEGImages" / f"{name}.jpg" for name in missing],
            [folder / f"{name}.png" for name in missing],
        )
        made = zip(missing, _show_progress(results, len(missing)), strict=True)
        faults = {name: fault for name, fault in made if fault}
    finally:
        pool.shutdown(cancel_futures=True)  # or a stop would wait for all of them
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
        f"their ids out; they are listed in {fault_file}: mend them and run again",
        file=sys.stderr,
    )
    return lines


def plan_voc(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
    """The file that each id's mask is made of, and the ids to train on; both sorted by id."""
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOCaug" / "dataset"
    train, val = (set(read_ids(voc / f"ImageSets/Segmentation/{x}.txt")) for x in ("train", "val"))
    listed = {*read_ids(sbd / "train.txt"), *read_ids(sbd / "val.txt")}
    mats = {path.stem for path in sbd.glob("cls/*.mat") if not path.name.startswith(".")}
    sources = {name: voc / "SegmentationClass" / f"{name}.png" for name in train | val}
    sources |= {name: sbd / "cls" / f"{name}.mat" for name in listed | mats}
    # SBD is split in another way than VOC: both of its parts have images of VOC's val.
    return dict(sorted(sources.items())), sorted((listed | train) - val)


def make_mask(source: pathlib.Path, image: pathlib.Path, target: pathlib.Path) -> str | None:
    """Writes a mask as a palette PNG; returns one line if something is wrong with its source."""
    try:
        mask = read_mat(source) if source.suffix == ".mat" else read_mask(source)
        size = scan_image(image).size
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
    """PASCAL's colours of the ids 0 to 255, uint8 [256, 3]: an id's bits in turn to R, G and B."""
    ids, colours = np.arange(256), np.zeros((256, 3), int)
    for bit in range(8):
        colours[:, bit % 3] |= (ids >> bit & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


def _show_progress(results: Iterator[str | None], total: int) -> Iterator[str | None]:
    """Passes the results on, with a bar on a terminal and lines elsewhere."""
    console = rich.console.Console()
    if console.is_terminal and total:
        yield from rich.progress.track(results, "masks", total, console=console)
        return
    for done, result in enumerate(results, 1):
        yield result
        if done % LINES_EVERY == 0 or done == total:
            print(f"{done}/{total} masks", flush=True)


def _write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    if not path.exists() or path.read_bytes() != content:
        write_all({path: content})


if __name__ == "__main__":
    make_lasting()
    sys.exit(main(sys.argv[1:]))
