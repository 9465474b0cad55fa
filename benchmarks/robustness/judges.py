"""Judges of what readers return for mutated files, as far as damage can be detected."""

import dataclasses
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.robustness import mutate
from benchmarks.robustness.mutate import BYTES, Mutation


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mutated file that was read without an error."""

    original: bytes
    content: bytes
    result: Any
    expected: Any  # the result of reading the original
    sealed: bool  # whether the mutation left checksums unchanged

    @property
    def cut(self) -> bool:
        """Whether the mutation only truncated the file."""
        return self.original.startswith(self.content) and self.content != self.original


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader with its valid files and mutations.

    `make` writes valid files to a folder, and `read` reads one of them there. `judge` returns what
    is wrong with the result of reading a mutated file, or "" if no damage can be detected.
    """

    make: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path, pathlib.Path], Any]  # from file and folder
    judge: Callable[[Trial], str]
    mutations: Sequence[Mutation] = BYTES
    repaired: Sequence[Mutation] = ()  # mutations that correct the checksums
    targets: str = "**/*"


def same(a: Any, b: Any) -> bool:
    """Compares nested containers of arrays exactly, including the arrays' types."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# Judges of each format; an empty result means that no damage was detected.


def judge_nothing(_: Trial) -> str:
    """Accepts every result."""
    return ""


def judge_cut(trial: Trial) -> str:
    """Judges files without checksums: a truncated file must give the original's result."""
    return "a truncated file gives another result" if trial.cut and _differs(trial) else ""


def judge_sealed(trial: Trial) -> str:
    """Judges files whose damage must be detected by checksums or repaired by recomputation."""
    return "damage is not detected" if trial.sealed and _differs(trial) else judge_cut(trial)


def judge_pixels(trial: Trial) -> str:
    """Reports uniform rows of pixels that are not in the file, which a decoder filled in."""
    *_, pixels = (x for x in trial.result if x is not None)
    if not pixels.size:
        return "no pixels"
    coloured = pixels.ndim == 3 and pixels.shape[2] == 3
    rows = pixels.reshape(-1, pixels[0].size if coloured else pixels.shape[-1])
    plain = (rows == rows[:, :1]).all(axis=1)  # all rows are uniform if the palette is damaged
    if rows.shape[1] > 15 and plain.any() and not plain.all():
        value = rows[plain.argmax(), 0]
        if value.tobytes() * 12 not in trial.content and value in (0, 128, 255):
            return f"rows of {value} that are not in the file"
    return judge_cut(trial)


def judge_png(trial: Trial) -> str:
    """Requires valid checksums and, unless the image is interlaced, data for all rows."""
    if trial.sealed:
        return judge_sealed(trial)
    chunks = mutate.png_chunks(trial.content)
    head = next(data for kind, data in chunks if kind == b"IHDR")
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", head[:13])
    row = 1 + (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours] + 7) // 8
    pixels = mutate.inflate(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    return "rows that are not in the file" if len(pixels) < height * row and not interlaced else ""


def judge_tiff(trial: Trial) -> str:
    """Judges pixels, but for JPEG compression, as for JPEG files, only truncation."""
    return (judge_cut if b"\xff\xd8\xff" in trial.original else judge_pixels)(trial)


def judge_files(trial: Trial) -> str:
    """Judges a zip: every unpacked file must be one that was packed."""
    if trial.sealed and not set(trial.result.values()) <= set(trial.expected.values()):
        return "damage is not detected"
    return ""


def judge_tar(trial: Trial) -> str:
    """Judges a tar: only gzip has a checksum of the contents."""
    return judge_sealed(trial) if trial.original[:2] == b"\x1f\x8b" else judge_cut(trial)


def judge_state(trial: Trial) -> str:
    """Judges checkpoints: the state and the best model must equal those saved at their steps."""
    _, step, state, which, model, metrics = trial.result
    states, models, of_step = trial.expected[0]
    if not same(state, states.get(step)) or not same(model, models.get(which)):
        return "damage is not detected"
    return "" if metrics in (None, of_step) else "damaged metrics are not detected"


def judge_mat(trial: Trial) -> str:
    """Requires a uint8 mask [H, W]; only compressed variables have a checksum."""
    if trial.result.dtype != np.uint8 or trial.result.ndim != 2:
        return "no mask"
    return judge_sealed(trial) if trial.original[128] == 15 else judge_cut(trial)


def _differs(trial: Trial) -> bool:
    return not same(trial.result, trial.expected)
