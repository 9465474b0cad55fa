"""Every reader of this project, with valid files of all kinds that it takes, for the fuzzer."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import shutil
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import mutate
from benchmarks.mutate import BYTES, JSON, TEXT, Mutation
from benchmarks.samples import (
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
from unet_jax.data.images import read_image, read_mask, scan_image, scan_mask
from unet_jax.data.matlab import read_mat
from unet_jax.data.pages import open_pages, scan_pages
from unet_jax.data.tiff import read_tiff
from unet_jax.data.unpack import unpack
from unet_jax.errors import UserError

ROOM = 2**22  # bytes that an archive may take, unpacked


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mutated file that was read, and not refused."""

    original: bytes
    content: bytes
    result: Any
    expected: Any  # of the original
    sealed: bool  # the mutation left checksums as they were

    @property
    def cut(self) -> bool:
        return self.original.startswith(self.content) and self.content != self.original


@dataclasses.dataclass(frozen=True)
class Reader:
    """`make` writes valid files into a folder; `read` reads one of them, in its place there.

    `judge` says what is wrong with what was read from a mutated file, as far as that can be told.
    """

    make: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path, pathlib.Path], Any]  # file, folder
    judge: Callable[[Trial], str]
    mutations: Sequence[Mutation] = BYTES
    repaired: Sequence[Mutation] = ()  # those that make checksums right again
    targets: str = "**/*"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# What a reader may make of a mutated file.


def judge_nothing(_: Trial) -> str:
    return ""


def judge_cut(trial: Trial) -> str:
    """For files without any checksum: one that was cut comes back whole, or not at all."""
    return "a cut file is read as another" if trial.cut and _differs(trial) else ""


def judge_sealed(trial: Trial) -> str:
    """For files with checksums, or computed again."""
    return "damage is not noticed" if trial.sealed and _differs(trial) else judge_cut(trial)


def judge_pixels(trial: Trial) -> str:
    """No pixels that are not in the file: rows of one value, where the original has none."""
    *_, pixels = (x for x in trial.result if x is not None)
    if not pixels.size:
        return "no pixels"
    coloured = pixels.ndim == 3 and pixels.shape[2] == 3
    rows = pixels.reshape(-1, pixels[0].size if coloured else pixels.shape[-1])
    plain = (rows == rows[:, :1]).all(axis=1)  # all are where the palette was harmed
    if rows.shape[1] > 15 and plain.any() and not plain.all():
        value = rows[plain.argmax(), 0]
        if value.tobytes() * 12 not in trial.content and value in (0, 128, 255):
            return f"rows of {value} that are not in the file"
    return judge_cut(trial)


def judge_png(trial: Trial) -> str:
    """All checksums hold, and there are pixels for all rows, unless it is interlaced."""
    if trial.sealed:
        return judge_sealed(trial)
    chunks = mutate.png_chunks(trial.content)
    head = next(data for kind, data in chunks if kind == b"IHDR")
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", head[:13])
    row = 1 + (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours] + 7) // 8
    pixels = mutate.inflate(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    return "rows that are not in the file" if len(pixels) < height * row and not interlaced else ""


def judge_tiff(trial: Trial) -> str:
    """Of JPEG within TIFF, as of JPEG, nobody can tell."""
    return (judge_cut if b"\xff\xd8\xff" in trial.original else judge_pixels)(trial)


def judge_files(trial: Trial) -> str:
    """Of a zip: every file is one that was packed."""
    if trial.sealed and not set(trial.result.values()) <= set(trial.expected.values()):
        return "damage is not noticed"
    return ""


def judge_tar(trial: Trial) -> str:
    """Only gzip has a checksum of the contents."""
    return judge_sealed(trial) if trial.original[:2] == b"\x1f\x8b" else judge_cut(trial)


def judge_state(trial: Trial) -> str:
    """Of a run: one of its states, and its own best model."""
    _, step, state, which, model, metrics = trial.result
    states, models, of_step = trial.expected[0]
    if not same(state, states.get(step)) or not same(model, models.get(which)):
        return "damage is not noticed"
    return "" if metrics in (None, of_step) else "damaged metrics are not noticed"


def _differs(trial: Trial) -> bool:
    return not same(trial.result, trial.expected)


# Images.


def _read_picture(path: pathlib.Path, _: pathlib.Path) -> Any:
    """As data sets do: an image and a mask, each scanned first."""
    found = scan_image(path)
    image = read_image(path, 3)
    if image.shape != (*found.size, 3) or image.dtype != (np.uint16, np.uint8)[found.bits == 8]:
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


def judge_mat(trial: Trial) -> str:
    if trial.result.dtype != np.uint8 or trial.result.ndim != 2:
        return "no mask"
    return judge_sealed(trial) if trial.original[128] == 15 else judge_cut(trial)


# Archives.


def _read_archive(path: pathlib.Path, folder: pathlib.Path) -> dict[str, bytes]:
    out = folder.with_name("unpacked") / "out"
    out.mkdir(parents=True)
    try:
        unpack(path, out, ROOM)
        outside = [x for x in out.parent.iterdir() if x != out]
        if outside or any(x.is_symlink() for x in out.rglob("*")):
            raise AssertionError(f"{outside} written outside, or a link")
        files = [x for x in out.rglob("*") if x.is_file()]
        return {str(x.relative_to(out)): x.read_bytes() for x in files}
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


# Text.


def make_lists(folder: pathlib.Path) -> None:
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
    from unet_jax.data.voc import open_voc

    data = voc.get_config().data
    data.root, data.split, data.download = str(folder), (), False
    splits = open_voc(data).splits
    names = {part: split.names for part, split in splits.items()}
    if any("/" in name or "." in name for part in names.values() for name in part):
        raise AssertionError(f"ids that lead elsewhere: {names}")
    return names


def make_classes(folder: pathlib.Path) -> None:
    for kind, pixels in (("images", noise((8, 9, 3))), ("masks", noise((8, 9), 3) - 1)):
        (folder / kind).mkdir()
        for i in range(3):
            save(folder / kind, f"{i}.png", Image.fromarray(pixels))
    (folder / "classes.txt").write_text("ground\nroad\n", encoding="utf-8-sig")


def _read_classes(_: pathlib.Path, folder: pathlib.Path) -> Any:
    from configs import folder as own
    from unet_jax.data.folder import open_folder

    data = own.get_config().data
    data.root, data.split = str(folder), ()
    return open_folder(data).classes


# What a run leaves.


def _config() -> Any:
    from configs import base

    config = base.get_config()
    config.name = "fuzzed"
    return config


def _dataset() -> Any:
    from unet_jax.data.dataset import Dataset, Split

    split = Split(names=("a", "b"), sizes=((8, 8),) * 2, read=_read_example)
    parts = dict.fromkeys(("train", "validation", "test"), split)
    return Dataset(parts, ("background", "blob"), 1, {"made": "0"})


def _read_example(index: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.kron(np.eye(3, dtype=np.uint8), np.ones((4, 4), np.uint8))
    return np.zeros((12, 12, 1), np.uint8), np.roll(label, index)


def make_run(folder: pathlib.Path) -> None:
    from unet_jax import workdir
    from unet_jax.writer import Writer

    run = folder / "fuzzed-seed0"
    with workdir.claim(run, _config(), _dataset()), contextlib.closing(Writer(run, 0)) as writer:
        for step in range(1, 7):
            writer.write(step, step / 2, "train", {"loss": 1 / step, "learning_rate": 1e-3})
            writer.write(step, step / 2, "validation", {"loss": 1 / step, "dice": 0.5})
    values = {"mean": 0.5, "min": 0.1, "max": 0.9, "pooled": 0.5}
    report = {"name": "fuzzed", "aggregate": {"loss": values, "dice": values}, "loss": 0.5}
    (run / "report.json").write_text(json.dumps(report))
    for path in run.iterdir():
        if path.name.startswith((".", "events")):
            path.unlink()


def _read_config(path: pathlib.Path, _: pathlib.Path) -> Any:
    from unet_jax import config, workdir

    fields = workdir.read_config(path.parent)
    read = workdir.saved_config(fields)
    config.check(read)
    with contextlib.suppress(UserError):  # another experiment
        workdir.check_ours(path.parent, _config())
    return config.flatten(read)


def _read_history(path: pathlib.Path, _: pathlib.Path) -> Any:
    from unet_jax.figures import learning_curves
    from unet_jax.writer import Writer, read_history

    history = read_history(path.parent)
    learning_curves(history, reported_step=3)
    Writer(path.parent, 3).close()
    for events in path.parent.glob("events*"):
        events.unlink()
    return history


def judge_history(trial: Trial) -> str:
    """Whole lines may be missing at the end of a file that was cut, no others."""
    read, there = trial.result, trial.expected
    if trial.cut and read != there[: len(read)]:
        return "a cut file is read as another"
    whole = [line for line in trial.content.split(b"\n")[:-1] if line.strip()]
    return "lines are left out" if len(read) < len(whole) else ""


def _read_report(path: pathlib.Path, folder: pathlib.Path) -> Any:
    from unet_jax import sweep

    rows = sweep.table(folder, [sweep.Run("fuzzed.py", 0)])
    sweep.write_table(folder.parent, rows, [])
    return rows


def _read_split(path: pathlib.Path, _: pathlib.Path) -> Any:
    from unet_jax import workdir

    return workdir.check_data(path.parent, _config(), _dataset())


@functools.cache
def _states() -> tuple[dict[int, Any], dict[Any, Any], dict[str, Any]]:
    """The training states by step, the models by name, and the metrics of the best."""

    def model(step: int) -> dict[str, Any]:
        kernel = np.arange(18, dtype=np.float32).reshape(2, 9) * step
        return {"params": {"a": {"kernel": kernel}, "b": np.full(3, step, np.float32)}}

    models: dict[Any, Any] = {step: model(step) for step in (10, 20)}
    counts = {step: {"count": np.asarray(step, np.int32)} for step in models}
    states = {step: {"model": models[step], "optimizer": counts[step]} for step in models}
    return states, models, {"loss": 0.25, "thresholds": {"dice": 0.75}}


def make_checkpoints(folder: pathlib.Path) -> None:
    from unet_jax.checkpoint import Checkpoints

    states, models, metrics = _states()
    with contextlib.closing(Checkpoints(folder, 2, {"seed": 0})) as saved:
        for step, state in states.items():
            saved.save(step, state)
        saved.save_best(10, models[10], metrics)


def _read_checkpoints(_: pathlib.Path, folder: pathlib.Path) -> Any:
    from unet_jax.checkpoint import Checkpoints

    states, models, _metrics = _states()
    with contextlib.closing(Checkpoints(folder, 2, {"seed": 0}, read_only=True)) as saved:
        step, state = saved.restore_latest(states[10]) or (None, None)
        best = saved.restore_model("best", models[10])
        return _states(), step, state, best.step, best.model, saved.best_metrics


def make_maps(folder: pathlib.Path) -> None:
    _read_maps(folder, folder)


def _read_maps(_: pathlib.Path, folder: pathlib.Path) -> Any:
    from unet_jax.data.weight_map import with_weights

    split = with_weights(_dataset().splits["train"], folder, 10.0, 2.0)
    return [split[i]["weight"] for i in range(len(split))]


def make_state_dicts(folder: pathlib.Path) -> None:
    import torch

    tensors = {"inc.weight": torch.arange(18.0).reshape(2, 9), "outc.bias": torch.ones(3)}
    torch.save(tensors, folder / "new.pth")
    torch.save({"model": tensors}, folder / "old.pth", _use_new_zipfile_serialization=False)


def _read_state_dict(path: pathlib.Path, _: pathlib.Path) -> Any:
    from benchmarks.import_torch import read_state_dict

    return {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}


def judge_state_dict(trial: Trial) -> str:
    return judge_sealed(trial) if trial.original[:2] == b"PK" else judge_cut(trial)


def _file(read: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path, pathlib.Path], Any]:
    return lambda path, _: read(path)


def _stack(path: pathlib.Path, _: pathlib.Path) -> Any:
    return [read_tiff(path)]


def _read_pages(path: pathlib.Path, _: pathlib.Path) -> Any:
    """As prediction does: each page in bands of rows."""
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


READERS = {
    "png": Reader(make_pngs, _read_picture, judge_png, repaired=(mutate.png,)),
    "jpeg": Reader(make_jpegs, _read_picture, judge_cut, (*BYTES, *[mutate.jpeg] * 9)),
    "bmp": Reader(make_bmps, _read_picture, judge_pixels),
    "gif": Reader(make_gifs, _read_picture, judge_cut),
    "tiff": Reader(make_tiffs, _read_picture, judge_tiff, (*BYTES, *[mutate.tiff] * 9)),
    "stack": Reader(make_stacks, _stack, judge_pixels, (*BYTES, *[mutate.tiff] * 9)),
    "pages": Reader(make_stacks, _read_pages, judge_cut, (*BYTES, *[mutate.tiff] * 9)),
    "mat": Reader(make_mats, _file(read_mat), judge_mat, repaired=(mutate.mat,)),
    "zip": Reader(make_zips, _read_archive, judge_files, repaired=(mutate.zipped,)),
    "tar": Reader(make_tars, _read_archive, judge_tar, repaired=(mutate.tar,)),
    "list": Reader(make_lists, _read_lists, judge_nothing, TEXT, targets="**/*.txt"),
    "classes": Reader(make_classes, _read_classes, judge_nothing, TEXT, targets="*.txt"),
    "config": Reader(make_run, _read_config, judge_cut, JSON, targets="*/config.json"),
    "split": Reader(make_run, _read_split, judge_cut, JSON, targets="*/split.json"),
    "history": Reader(make_run, _read_history, judge_history, JSON, targets="*/metrics.jsonl"),
    "report": Reader(make_run, _read_report, judge_cut, JSON, targets="*/report.json"),
    "checkpoint": Reader(make_checkpoints, _read_checkpoints, judge_state, JSON),
    "weights": Reader(make_maps, _read_maps, judge_sealed),
    "state_dict": Reader(make_state_dicts, _read_state_dict, judge_state_dict),
}
