"""Resolves `data.normalize` and its fields from the training images."""

import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.files import cache_folder, read_json, write_all
from unet_jax.core.progress import track
from unet_jax.data.dataset import Dataset, Split

NORMALIZATIONS = ("range", "limits", "percentile", "zscore", "auto")
PERCENTILES = (0.5, 99.5)
STATISTICS = ("range", "percentiles", "mean", "std")
FIELDS = ("normalize", "limits", "mean", "std", "dtype")  # of `data`
OWN_RANGE = ("uint8", "uint16")  # types that one run accepts, each with its own range
HISTOGRAM_BITS = 16  # integers of at most so many bits are counted exactly
SAMPLE = 2**24  # most values of a channel from which percentiles of other types are computed


class Expected(NamedTuple):
    """The input that pretrained weights expect, as shares of the range of the image's type.

    Attributes:
      mean: the share that becomes 0, for R, G and B.
      std: the difference of shares that becomes 1.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resolved(
    data: ConfigDict, dataset: Dataset, weights: Expected | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Resolves the fields of the normalization, which depend on the training images.

    What a config states is kept. The result of a computation is kept in the user's cache, so that
    the next start with the same training images does not read them again.

    Args:
      data: the section `data` of a config.
      dataset: its data set.
      weights: what the pretrained weights of the network expect, if it has any; `auto` follows it.

    Returns:
      The values of `normalize`, `limits`, `mean`, `std` and `dtype`, and lines that say what was
      computed.

    Raises:
      UserError: the fields fit neither each other nor the images.
    """
    split = dataset.splits["train"]
    dtype = split.read(0)[0].dtype
    method = data.normalize
    if method == "auto" and weights:
        _check(data, "zscore", dtype, dataset.channels)
        return _expected(weights, data, dataset, dtype)
    if method == "auto":
        method = "range" if _is_8_bit(dtype) else "percentile"
    found: dict[str, Any] = {"normalize": method}
    _check(data, method, dtype, dataset.channels)
    if method != "range" or dtype.name not in OWN_RANGE:
        found["dtype"] = dtype.name
    if method == "range":
        return found, []
    names = ("limits", "mean", "std") if method == "zscore" else ("limits",)
    given = {name: tuple(getattr(data, name)) for name in names if getattr(data, name)}
    notes = []
    if len(given) < len(names):
        computed = _computed(dataset)
        ends = computed["range" if method == "zscore" else "percentiles"]
        limits, flat = _with_width(ends, computed["range"])
        notes += [
            f"channel {k + 1} of {dataset.channels}: more than 99 % of the values of the training "
            f"images are {ends[2 * k]:g}; the range is {limits[2 * k]:g} to {limits[2 * k + 1]:g}"
            for k in flat
        ]
        std = tuple(value or 1.0 for value in computed["std"])
        given = {"limits": limits, "mean": tuple(computed["mean"]), "std": std} | given
    found |= {name: given[name] for name in names}
    notes.insert(0, _describe(method, found, dtype))
    return found, notes


def full_range(dtype: np.dtype) -> tuple[float, ...]:
    """Returns the least and the greatest value of an 8-bit type; () for others."""
    if not _is_8_bit(dtype):
        return ()
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def in_stored_values(
    weights: Expected, limits: Sequence[float], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean and standard deviation that pretrained weights expect, [channels] each.

    Args:
      weights: what they expect; images with other than three channels get the average of the three.
      limits: the range of the values, (low, high), or a pair for each channel.
      channels: number of channels.
    """
    low, high = np.broadcast_to(np.reshape(limits, (-1, 2)), (channels, 2)).T
    shares = [np.array(values) for values in weights]
    if channels != len(weights.mean):
        shares = [np.full(channels, values.mean()) for values in shares]
    return low + shares[0] * (high - low), shares[1] * (high - low)


def _expected(
    weights: Expected, data: ConfigDict, dataset: Dataset, dtype: np.dtype
) -> tuple[dict[str, Any], list[str]]:
    """Returns the mean and standard deviation of stored values that pretrained weights expect.

    The range of the values is `data.limits`; if there are none, that of the type for 8 bits, else
    the percentiles of the training images.
    """
    count, limits = dataset.channels, tuple(data.limits) or full_range(dtype)
    if not limits:
        computed = _computed(dataset)
        limits, _ = _with_width(computed["percentiles"], computed["range"])
    mean, std = in_stored_values(weights, limits, count)
    found = {
        "normalize": "zscore",
        "limits": tuple(np.broadcast_to(np.reshape(limits, (-1, 2)), (count, 2)).ravel().tolist()),
        "mean": tuple(data.mean) or tuple(mean.tolist()),
        "std": tuple(data.std) or tuple(std.tolist()),
        "dtype": dtype.name,
    }
    follows = ", as the pretrained weights expect" * (not data.mean)
    return found, [f"{_describe('zscore', found, dtype)}{follows}"]


def _is_8_bit(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and dtype.itemsize == 1


def left_open(data: ConfigDict, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the normalization that a config leaves open, as a run recorded them.

    Args:
      data: the section `data` of a config.
      recorded: all fields of the run by dotted name; earlier versions recorded no normalization.
    """
    saved = {name: recorded.get(f"data.{name}") or () for name in FIELDS}
    method = saved["normalize"] or "range"
    if data.normalize not in ("auto", method):
        return {}
    found = {
        name: value if isinstance(value, str) else tuple(value)
        for name, value in saved.items()
        if value and not data[name]
    }
    return found | {"normalize": method}


def check_type(path: pathlib.Path, dtype: np.dtype, recorded: Collection[str]) -> None:
    """Checks that runs can be applied to an image of a type.

    Args:
      path: the image's file, for the message.
      dtype: type of its stored values.
      recorded: `data.dtype` of each run.

    Raises:
      UserError: a run's normalization is for stored values of another type.
    """
    for name in sorted(recorded):
        if dtype.name != name and (name or dtype.name not in OWN_RANGE):
            raise UserError(
                f"{path}: pixels of type {dtype}; the run was trained on "
                f"{name or ' or '.join(OWN_RANGE)}; convert the image to that type"
            )


def _describe(method: str, found: dict[str, Any], dtype: np.dtype) -> str:
    if method == "zscore":
        pairs = zip(found["mean"], found["std"], strict=True)
        values = ", ".join(f"{mean:.6g} and {std:.4g}" for mean, std in pairs)
        return f"{dtype} images: mean {values} (standard deviation) become 0 and 1"
    pairs = np.reshape(found["limits"], (-1, 2)).tolist()
    values = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in pairs)
    source = f" ({PERCENTILES[0]} and {PERCENTILES[1]} percentiles of the training images)"
    return (
        f"{dtype} images: {values}{source * (method == 'percentile')} become the input range, and "
        f"values beyond are clipped (data.normalize={method})"
    )


def _check(data: ConfigDict, method: str, dtype: np.dtype, channels: int) -> None:
    """Raises a `UserError` if the fields fit neither each other nor the images."""
    uses = {"limits": 2, "mean": 1, "std": 1}
    unused = {"range": ("limits", "mean", "std"), "zscore": ()}.get(method, ("mean", "std"))
    for name in unused:
        if getattr(data, name):
            raise UserError(
                f"data.{name}={tuple(getattr(data, name))}: has no effect with "
                f"data.normalize={method}; leave it out, or change data.normalize"
            )
    for name, each in uses.items():
        values = tuple(getattr(data, name))
        if values and len(values) not in (each, each * channels):
            raise UserError(
                f"data.{name}={values}: {len(values)} numbers; the images have {channels} "
                f"channel{'s' * (channels != 1)}, so give {each} or {each * channels}"
            )
    if len(data.mean) != len(data.std):
        raise UserError("data.mean and data.std: give both, with as many numbers, or none")
    pairs = np.reshape(np.array(data.limits, float), (-1, 2))
    if len(pairs) and not (np.float32(pairs[:, 0]) < np.float32(pairs[:, 1])).all():
        raise UserError(f"data.limits={tuple(data.limits)}: each low must be below its high")
    if method == "limits" and not data.limits:
        raise UserError("data.normalize=limits: give data.limits=(low, high), stored values")
    if method == "range" and dtype.kind not in "iu":
        raise UserError(
            f"data.normalize=range: the images are {dtype}, a type without a range; use "
            f"percentile, zscore or limits"
        )
    if data.dtype and data.dtype != dtype.name:
        raise UserError(
            f"data.dtype={data.dtype}: the training images are {dtype}; convert them to "
            f"{data.dtype}, or leave data.dtype, data.limits, data.mean and data.std out"
        )


def _with_width(ends: list[float], extremes: list[float]) -> tuple[tuple[float, ...], list[int]]:
    """Returns limits whose high is above their low, and the channels whose limits were equal.

    Where nearly all values of a channel are equal, its lowest and highest value are taken; where
    all are, the next number.
    """
    limits, flat = np.reshape(_float32(ends), (-1, 2)), []
    for k, (low, high) in enumerate(np.reshape(_float32(extremes), (-1, 2))):
        if limits[k, 0] == limits[k, 1]:
            flat.append(k)
            limits[k] = low, high if high > low else max(low + 1, np.nextafter(low, np.inf))
    return tuple(limits.ravel().tolist()), flat


def _computed(dataset: Dataset) -> dict[str, list[float]]:
    """Returns the statistics of the training images, from the cache if they are there."""
    key = {
        "sha256": dict(dataset.sha256),
        "names": dataset.splits["train"].names,
        "channels": dataset.channels,
        "percentiles": PERCENTILES,
        "version": 1,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    try:
        path = cache_folder() / "intensities" / f"{name}.json"
        if path.exists() and (found := read_json(path)).keys() == set(STATISTICS):
            return found
    except (OSError, RuntimeError, UserError):  # as if it were not there
        path = None
    found = statistics(dataset.splits["train"], dataset.channels)
    if path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_all({path: json.dumps(found).encode()})
        except OSError:
            pass  # the next start computes them again
    return found


def statistics(split: Split, channels: int) -> dict[str, list[float]]:
    """Computes the statistics of each channel over all pixels of a split.

    Args:
      split: the images.
      channels: their number of channels, C.

    Returns:
      `range` and `percentiles`, 2 C numbers (low, high, low, high, ...), `mean` and `std`, C
      numbers. Percentiles of integers of up to `HISTOGRAM_BITS` bits are those of all pixels; those
      of other types are of every n-th pixel, such that a channel has at most `SAMPLE`.
    """
    first = split.read(0)[0]
    dtype, shift = first.dtype, first.mean((0, 1), np.float64)  # squares of small numbers are exact
    counted = dtype.kind in "iu" and dtype.itemsize * 8 <= HISTOGRAM_BITS
    bottom = int(np.iinfo(dtype).min) if counted else 0
    pixels = sum(height * width for height, width in split.sizes)
    step = 1 if counted else max(1, -(-pixels // SAMPLE))
    histogram = np.zeros((channels, 2 ** (dtype.itemsize * 8) if counted else 0), np.int64)
    samples, total, squares = [], np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    indices = track(range(len(split)), len(split), "reading", "training images")
    for image in (split.read(index)[0] for index in indices):
        values = image.reshape(-1, channels)
        wide = values - shift
        total += wide.sum(0)
        squares += (wide**2).sum(0)
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        if counted:
            for k in range(channels):
                places = values[:, k].astype(np.int64) - bottom
                histogram[k] += np.bincount(places, minlength=histogram.shape[1])
        else:
            samples.append(values[::step].copy())  # a view would keep the whole image
    if counted:
        ends = [_percentile_of(counts, q) + bottom for counts in histogram for q in PERCENTILES]
    else:
        ends = np.percentile(np.concatenate(samples), PERCENTILES, axis=0).T.ravel().tolist()
    mean = total / pixels
    found = (
        np.stack([low, high], 1).ravel().tolist(),
        [float(value) for value in ends],
        (mean + shift).tolist(),
        np.sqrt(np.maximum(squares / pixels - mean**2, 0)).tolist(),
    )
    return dict(zip(STATISTICS, found, strict=True))


def _float32(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32)


def _percentile_of(counts: np.ndarray, q: float) -> float:
    """Returns a percentile of the values 0, 1, ... with these counts, as `np.percentile` does."""
    ends = np.cumsum(counts)
    place = q / 100 * (ends[-1] - 1)
    first = np.searchsorted(ends, np.floor(place), side="right")
    second = np.searchsorted(ends, np.ceil(place), side="right")
    return float(first + (second - first) * (place - np.floor(place)))
