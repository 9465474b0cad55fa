"""Inspection of a data set as training receives it, without training: `--mode=inspect`."""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.table
import rich.text
import scipy
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.files import write_all
from unet_jax.core.intensities import Intensities
from unet_jax.core.names import printable
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Example, Split
from unet_jax.data.intensities import PERCENTILES
from unet_jax.data.weight_map import class_balance, folder_of_maps, with_weights
from unet_jax.reporting import charts, figures
from unet_jax.reporting.rendering import rendered
from unet_jax.runs import folder as run_folder

WINDOWS = 100  # number of training windows in which foreground is looked for
SHOWN = 8  # number of examples in each group of the contact sheet
THUMBNAIL = 64  # side of the thumbnails that are compared, in blocks of pixels
AROUND = 15  # side of the window whose local mean is subtracted, in blocks
BINS = 256  # of the histogram of what the network receives
LEAST_USED = 0.1  # share of the type's range below which a warning is printed
DUPLICATE = 0.95  # correlation of thumbnails above which two images are near-duplicates


def inspect(config: ConfigDict, dataset: Dataset, folder: pathlib.Path) -> dict[str, Any]:
    """Computes statistics of each split, searches for near-duplicates and draws examples.

    Writes `inspection.json`, `figures/inspection.png` and `figures/intensities.png` to the run's
    folder and prints the tables. If the config has a weight map (`data.border_weight`), the
    weights are included.

    Args:
      config: the experiment.
      dataset: its data.
      folder: the run's folder.

    Returns:
      The content of `inspection.json`.
    """
    splits = {name: split for name, split in dataset.splits.items() if len(split)}
    content: dict[str, Any] = {
        "name": config.name,
        "classes": list(dataset.classes),
        "channels": list(dataset.channel_names),
        "splits": {name: describe_split(split, dataset) for name, split in splits.items()},
        "network_input": describe_input(splits["train"], Intensities.of(config.data)),
        "most_alike": most_alike(splits),
    }
    with run_folder.claim(folder, config, dataset):
        train = splits["train"]
        if config.data.border_weight:
            cache, sigma = folder_of_maps(folder), config.data.border_sigma
            train = with_weights(train, cache, config.data.border_weight, sigma)
            balance = class_balance(list(content["splits"]["train"]["share"].values()))
            content["weights"] = {
                **describe_weights(train),
                "class_balance": dict(zip(dataset.classes, balance, strict=True)),
            }
        raw = [train[i] for i in range(min(SHOWN, len(train)))]
        batches = pipeline.batches_of(config, train, batch_size=1)
        windows = batches[:WINDOWS] if config.data.fit == "crop" else batches[:SHOWN]
        augmented, foreground = [], 0
        for batch in windows:
            label = batch["label"][0]
            foreground += bool(((label > 0) & (label != IGNORED)).any())
            if len(augmented) < SHOWN:
                augmented.append({k: v[0] for k, v in batch.items()})
        if config.data.fit == "crop":
            content["windows"] = {"drawn": len(windows), "with_foreground": foreground}
        groups = {
            "on disk": _titled(raw, train.names),
            "as training receives them": _titled(
                [{**e, "image": _shown(e["image"], config)} for e in augmented], train.names
            ),
        }
        if train.weight:
            groups["weight of each pixel, as training receives it"] = _heated(
                augmented, train.names, content["weights"]["max"]
            )
        sheet = folder / "figures" / "inspection.png"
        chart = _input_chart(content["network_input"])
        drawn = rendered(
            {
                sheet: lambda: charts.png(figures.contact_sheet(groups, dataset.classes)),
                sheet.with_name("intensities.png"): lambda: charts.png(charts.figure([chart])),
            }
        )
        sheet.parent.mkdir(exist_ok=True)
        numbers = (json.dumps(content, indent=1) + "\n").encode()
        write_all({folder / "inspection.json": numbers, **drawn})
    _print(content)
    return content


def describe_split(split: Split, dataset: Dataset) -> dict[str, Any]:
    """Computes the statistics of a split's images and labels.

    Args:
      split: the images, at least one.
      dataset: gives the channels and the names of the classes.

    Returns:
      `images`, their number; `sizes` as HEIGHTxWIDTH; `dtype`; `range`, the lowest and the highest
      grey value; `mean` and `std` of each channel, in the grey values of the files; `share` of each
      class among the pixels that are not ignored; `ignored`, the share of ignored pixels.
    """
    pixels, total, squares = 0, np.zeros(dataset.channels), np.zeros(dataset.channels)
    labels = np.zeros(IGNORED + 1, np.int64)
    lowest, highest = np.float64(np.inf), np.float64(-np.inf)
    for i in range(len(split)):
        example = split[i]
        image = example["image"].astype(np.float64)
        pixels += example["label"].size
        total += image.sum((0, 1))
        squares += (image**2).sum((0, 1))
        stored = example["image"]
        lowest, highest = min(lowest, stored.min()), max(highest, stored.max())
        labels += np.bincount(example["label"].ravel(), minlength=len(labels))
    mean = total / pixels
    ignored = int(labels[IGNORED])
    counted = max(pixels - ignored, 1)
    return {
        "images": len(split),
        "sizes": sorted({f"{height}x{width}" for height, width in split.sizes}),
        "dtype": str(split[0]["image"].dtype),
        "range": [lowest.item(), highest.item()],
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / pixels - mean**2, 0)).tolist(),
        "share": {name: int(labels[k]) / counted for k, name in enumerate(dataset.classes)},
        "ignored": ignored / pixels,
    }


def describe_input(split: Split, intensities: Intensities) -> dict[str, Any]:
    """Computes what the network receives of a split's images, before augmentation.

    Args:
      split: the images, at least one.
      intensities: the map from stored values to the network's input.

    Returns:
      `range`, `mean` and `std` of each channel; `bins`, the edges of the histogram, and
      `histogram`, the share of each channel's pixels in each bin; `used`, the share of the type's
      range that the middle 99 % of the pixels take, if the whole range is mapped.
    """
    dtype, channels = split[0]["image"].dtype, split[0]["image"].shape[-1]
    ends = [intensities.network_input(end.astype(dtype)) for end in intensities.ends(dtype)]
    bins = np.linspace(np.min(ends), np.max(ends), BINS + 1)
    counts, total, squares = np.zeros((channels, BINS)), np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for i in range(len(split)):
        values = intensities.network_input(split[i]["image"]).reshape(-1, channels)
        total += values.sum(0, np.float64)
        squares += (values.astype(np.float64) ** 2).sum(0)
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        inside = np.clip(values, bins[0], bins[-1])
        counts += [np.histogram(channel, bins)[0] for channel in inside.T]
    pixels = counts[0].sum()
    mean = total / pixels
    content = {
        "range": np.stack([low, high], 1).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / pixels - mean**2, 0)).tolist(),
        "bins": bins.tolist(),
        "histogram": (counts / pixels).tolist(),
    }
    if not intensities.limits:
        below = np.cumsum(counts, axis=1) / pixels
        bins_used = [np.searchsorted(b, np.array(PERCENTILES) / 100) for b in below]
        content["used"] = max(int(last - first) + 1 for first, last in bins_used) / BINS
    return content


def describe_weights(split: Split) -> dict[str, float]:
    """Returns `min`, `mean` and `max` of the weights of a split's pixels that are not ignored.

    If all pixels are ignored, they are 0, as the weights of ignored pixels are.
    """
    pixels, total, lowest, highest = 0, 0.0, np.inf, -np.inf
    for i in range(len(split)):
        example = split[i]
        weight = example["weight"][example["label"] != IGNORED]
        pixels += weight.size
        total += weight.sum(dtype=np.float64)
        lowest = min(lowest, weight.min(initial=np.inf))
        highest = max(highest, weight.max(initial=-np.inf))
    if not pixels:
        return {"min": 0.0, "mean": 0.0, "max": 0.0}
    return {"min": float(lowest), "mean": float(total / pixels), "max": float(highest)}


def most_alike(splits: Mapping[str, Split], most: int = 3) -> list[dict[str, Any]]:
    """Finds the most similar images of different splits, by the correlation of their thumbnails.

    A correlation near 1 means that both splits contain the same image, or nearly the same.

    Args:
      splits: splits by name, each with at least one image.
      most: largest number of pairs.

    Returns:
      Pairs with their `correlation` and the image's name in each of the two splits, the most
      similar pair first.
    """
    thumbnails = {
        name: np.stack([_thumbnail(split[i]) for i in range(len(split))])
        for name, split in splits.items()
    }
    pairs = []
    for a, b in itertools.combinations(splits, 2):
        correlations = thumbnails[a] @ thumbnails[b].T
        for flat in np.argsort(correlations, axis=None)[::-1][:most].tolist():
            i, j = divmod(flat, len(splits[b]))
            pairs.append(
                {
                    "correlation": round(float(correlations[i, j]), 4),
                    a: splits[a].names[i],
                    b: splits[b].names[j],
                }
            )
    return sorted(pairs, key=lambda pair: -pair["correlation"])[:most]


def _thumbnail(example: Example) -> np.ndarray:
    """Computes an image's thumbnail, high-pass filtered: a unit vector, float64 [THUMBNAIL^2].

    It has the means of blocks of pixels, less the local mean around each block. Images of the same
    kind share large-scale structure (a bright centre) and the shape of the ignored area (a round
    field of view). The filter removes the former, and ignored pixels are left out, so that neither
    makes two different images similar.
    """
    counted = (example["label"] != IGNORED).astype(np.float64)
    grey = example["image"].mean(-1, dtype=np.float64) * counted
    rows, columns = (np.linspace(0, n, THUMBNAIL + 1).astype(int)[:-1] for n in grey.shape)

    def block_sums(x: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(x, rows, axis=0), columns, axis=1)

    pixels = block_sums(counted)
    used = pixels > 0
    means = block_sums(grey) / np.maximum(pixels, 1)
    around = scipy.ndimage.uniform_filter(used.astype(np.float64), AROUND, mode="constant")
    mean_around = scipy.ndimage.uniform_filter(means, AROUND, mode="constant") / np.maximum(
        around, 1e-9
    )
    detail = np.where(used, means - mean_around, 0).ravel()
    return detail / max(np.linalg.norm(detail), 1e-12)


def _titled(
    examples: list[Example], names: tuple[str, ...]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(names[int(e["index"])], e["image"], e["label"]) for e in examples]


def _heated(
    examples: list[Example], names: tuple[str, ...], highest: float
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Returns a title, a heat map of the weights and an empty label for each example."""
    return [
        (
            f"{names[int(e['index'])]}: {e['weight'].min():.2g} to {e['weight'].max():.3g}",
            figures.heat_map(e["image"], e["weight"], highest),
            np.zeros_like(e["label"]),
        )
        for e in examples
    ]


def _shown(image: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Returns uint8 [H, W, C]: black and white are the ends of what the network receives."""
    share = Intensities.of(config.data).share(image, image.dtype)
    return np.rint(share * 255).astype(np.uint8)


def _input_chart(content: dict[str, Any]) -> charts.Chart:
    bins = np.array(content["bins"])
    centres = ((bins[1:] + bins[:-1]) / 2).tolist()
    several = len(content["histogram"]) > 1
    lines = [
        charts.Line(
            f"channel {k + 1}" if several else "all pixels",
            list(zip(centres, shares, strict=True)),
            k,
        )
        for k, shares in enumerate(content["histogram"])
    ]
    return charts.Chart("Share of the training pixels", lines, x="network input")


def _print(content: dict[str, Any]) -> None:
    splits = content["splits"]

    def numbers(values: list[float]) -> str:
        return " ".join(f"{value:.1f}" for value in values)

    def sizes(names: list[str]) -> str:
        return names[0] if len(names) == 1 else f"{names[0]} … ({len(names)} sizes)"

    rows = {
        "images": [str(split["images"]) for split in splits.values()],
        "sizes, pixels": [sizes(split["sizes"]) for split in splits.values()],
        "type": [split["dtype"] for split in splits.values()],
        "range": ["{:.6g} … {:.6g}".format(*split["range"]) for split in splits.values()],
        "mean of each channel": [numbers(split["mean"]) for split in splits.values()],
        "std of each channel": [numbers(split["std"]) for split in splits.values()],
    }
    for name in content["classes"]:
        rows[f"share of {name}"] = [f"{split['share'][name]:.2%}" for split in splits.values()]
    rows["ignored"] = [f"{split['ignored']:.2%}" for split in splits.values()]
    # rich would interpret square brackets in file names as markup; `Text` prints them as they are.
    table = rich.table.Table("", *(rich.table.Column(_text(split)) for split in splits))
    for name, cells in rows.items():
        table.add_row(*map(_text, (name, *cells)))
    console = rich.console.Console()
    console.print(table)
    if weights := content.get("weights"):
        balance = ", ".join(f"{name} {x:.3g}" for name, x in weights["class_balance"].items())
        line = (
            f"weights of the training pixels: {weights['min']:.3g} to {weights['max']:.3g}, mean "
            f"{weights['mean']:.3g}; class balance: {balance}"
        )
        console.print(_text(line))
    if windows := content.get("windows"):
        line = "{with_foreground} of {drawn} training windows contain foreground".format(**windows)
        console.print(_text(line))
    if content["network_input"].get("used", 1) < LEAST_USED:
        line = (
            f"warning: the training images use {content['network_input']['used']:.1%} of the range "
            f"of their type, so that the network sees little contrast; use "
            f"--config.data.normalize=percentile"
        )
        console.print(_text(line))
    for pair in content["most_alike"]:
        (a, one), (b, other) = (item for item in pair.items() if item[0] != "correlation")
        warning = "  near-duplicates!" if pair["correlation"] > DUPLICATE else " (equal: 1)"
        line = f"{a} {one} and {b} {other}: thumbnails correlate {pair['correlation']:.3f}{warning}"
        console.print(_text(line))


def _text(text: str) -> rich.text.Text:
    return rich.text.Text(printable(text))
