"""Compares the exported networks of a run with the run itself: masks, scores and time.

python -m benchmarks.export --run=runs/isbi-small

exports the run in each format and applies what was written to the images of a split. It prints two
tables: mean scores, and how far probabilities and masks are from those of `run.predict`; and the
time of a batch on the CPU, with the operations per second of CPU time, which for PyTorch includes
waiting threads. `jax` is `run.predict`, on as many devices as the batch has images, at most one a
core. The others are ONNX Runtime, PyTorch (what `--format=pytorch` wrote, in both of its layouts of
memory; TorchScript) and JAX without this project (StableHLO). All are timed in turns, except for a
package's ONNX, which is that of `onnx`.
"""

import functools
import importlib.metadata
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

import unet_jax
from benchmarks.exported import Network, export_all
from unet_jax import models
from unet_jax.core.command_help import command_parser
from unet_jax.core.files import write_json
from unet_jax.data.dataset import Split
from unet_jax.distributed import devices
from unet_jax.metrics import overlap
from unet_jax.runs.experiment import open_data

Prediction = tuple[np.ndarray, np.ndarray]  # class ids [N, H, W], probabilities [N, H, W, K]
PACKAGES = ("jax", "onnxruntime", "torch", "numpy")  # whose versions are recorded
SHOWN = ("dice", "precision", "recall", "mean_iou", "pixel_accuracy")  # scores in the table
TIE = 1e-5  # a pixel whose probability is so close to another decision is a tie


def network_of(run: unet_jax.Run) -> Network:
    """Returns `run.predict` for batches, with the last axis K also for two classes."""

    def predict(images: np.ndarray) -> Prediction:
        found = run.predict(images)
        several = found.probabilities.ndim == 4
        return found.mask, found.probabilities if several else found.probabilities[..., None]

    return predict


def scores_of(found: Sequence[Prediction], split: Split, classes: int) -> dict[str, float]:
    """Returns the mean scores of the first images of a split."""
    labels = [split.read(index)[1] for index in range(len(found))]
    scores = [
        overlap.headline_metrics(overlap.confusion(label, mask[0], classes))
        for label, (mask, _) in zip(labels, found, strict=True)
    ]
    return {key: float(np.nanmean([score[key] for score in scores])) for key in scores[0]}


def margin(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Returns how far each pixel is from another decision: [N, H, W, K] -> [N, H, W]."""
    if unet_jax.is_binary(probabilities.shape[-1]):
        return abs(probabilities[..., -1] - threshold)
    second, first = np.moveaxis(np.sort(probabilities, axis=-1)[..., -2:], -1, 0)
    return first - second


def differences(
    found: Sequence[Prediction], expected: Sequence[Prediction], threshold: float
) -> dict[str, Any]:
    """Compares predictions with others, pixel by pixel.

    Returns:
      `largest`: the largest difference of a probability. Counts of pixels: `pixels`, all;
      `others`, those that are decided otherwise; `certain_others`, those of them that are no tie in
      `expected` (`TIE`).
    """
    largest, counts = 0.0, dict.fromkeys(("pixels", "others", "certain_others"), 0)
    for (mask, values), (expected_mask, expected_values) in zip(found, expected, strict=True):
        planes = expected_values.shape[-1]  # `run.predict` gives one of two logits' probabilities
        largest = max(largest, float(abs(values[..., -planes:] - expected_values).max()))
        others = mask != expected_mask
        certain = others & (margin(expected_values, threshold) > TIE)
        for key, region in zip(counts, (np.ones_like(others), others, certain), strict=True):
            counts[key] += int(region.sum())
    return {"largest": largest, **counts}


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Times runs in turns.

    Returns:
      For each run, in milliseconds, the median and the range of the time that passed, and the
      median of the CPU time of all threads, which depends less on what else the machine does.
    """
    passed: dict[str, list[float]] = {name: [] for name in runs}
    used: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # the one before has evicted the caches
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            passed[name].append(1e3 * (time.perf_counter() - start))
            used[name].append(1e3 * (time.process_time() - cpu_start))
    return {
        name: {
            "ms": statistics.median(passed[name]),
            "range_ms": [min(passed[name]), max(passed[name])],
            "cpu_ms": statistics.median(used[name]),
        }
        for name in runs
    }


def gflop_of(run: unet_jax.Run, shape: Sequence[int]) -> float:
    """Returns the cost of the network for images [N, H, W, C], in 10^9 operations.

    It is that of the convolutions as they are defined, and of the image without its padding. An
    algorithm that needs fewer operations therefore seems faster than the CPU is.
    """
    side, (count, height, width, channels) = 256, shape
    cost = models.forward_gflop(run.model, run.variables, side, channels) or float("nan")
    return cost * count * height * width / side**2


def print_tables(content: dict[str, Any]) -> None:
    """Prints the results as tables in Markdown."""
    results = content["results"]
    names = [name for name in SHOWN if name in results["jax"]["scores"]]
    print(f"\n{content['images']} images of {content['split']}\n")
    header = ["", "file, MiB", *names, "largest difference", "other pixels", "of them no ties"]
    print(f"| {' | '.join(header)} |")
    print(f"| --- {'| ---: ' * (len(names) + 4)}|")
    for name, result in results.items():
        cells = [f"{result['bytes'] / 2**20:.2f}" if "bytes" in result else ""]
        cells += [f"{result['scores'][name]:.4f}" for name in names]
        if "pixels" in result:
            share = 100 * result["others"] / result["pixels"]
            cells += [f"{result['largest']:.1e}", f"{result['others']} ({share:.2g} %)"]
            cells += [str(result["certain_others"])]
        else:
            cells += [""] * 3
        print(f"| {name} | {' | '.join(cells)} |")
    if "ms" not in results["jax"]:
        return
    height, width = content["size"]
    print(f"\n{content['batch']} images of {height}x{width}, {content['rounds']} rounds\n")
    print(
        "| | time: median (range), ms | images/s | of JAX's time | CPU time, ms | GFLOP/s of it |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, result in results.items():
        if "ms" not in result:
            continue
        low, high = result["range_ms"]
        ratio = result["ms"] / results["jax"]["ms"]
        print(
            f"| {name} | {result['ms']:.0f} ({low:.0f} – {high:.0f}) | "
            f"{1e3 * content['batch'] / result['ms']:.2f} | {ratio:.2f} | {result['cpu_ms']:.0f} | "
            f"{1e3 * content['gflop'] / result['cpu_ms']:.0f} |"
        )


def main() -> None:
    parser = command_parser("python -m benchmarks.export", __doc__)
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument("--split", default="test", help="the split whose images are used")
    parser.add_argument("--images", type=int, default=20, help="the most images that are scored")
    parser.add_argument("--batch", type=int, default=2, help="images that are timed at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the other runtimes")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing; 0: none")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # orbax warns of reading
    devices.use_cores(options.batch)
    devices.local_mesh()  # JAX starts with these; `load_run` leaves them as they are
    run = unet_jax.load_run(options.run)
    config, dataset = open_data(run.config, run.folder, evaluated=True)
    split = dataset.splits[options.split]
    images = [split.read(index)[0][None] for index in range(min(len(split), options.images))]
    alike = [image for image in images if image.shape == images[0].shape]
    batch = np.concatenate(alike[: options.batch])
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        exported = export_all(run.folder, config, pathlib.Path(temporary), options.threads)
        networks = {"jax": network_of(run)} | {name: x.apply for name, x in exported.items()}
        expected = [networks["jax"](image) for image in images]
        for name, network in networks.items():
            found = [network(image) for image in images]
            results[name] = {"scores": scores_of(found, split, len(dataset.classes))}
            if name in exported:
                results[name]["bytes"] = exported[name].size
                results[name] |= differences(found, expected, config.eval.threshold)
        runs = {name: functools.partial(x, batch) for name, x in networks.items()}
        del runs["bioimageio onnx"]
        times = measure(runs, options.rounds) if options.rounds else {}
    content = {
        "run": options.run,
        "split": options.split,
        "images": len(images),
        "batch": len(batch),
        "size": list(batch.shape[1:3]),
        "rounds": options.rounds,
        "gflop": gflop_of(run, batch.shape),
        "devices": jax.local_device_count(),
        "threads": options.threads,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "results": {name: result | times.get(name, {}) for name, result in results.items()},
    }
    print_tables(content)
    if options.out:
        write_json(options.out, content)


if __name__ == "__main__":
    main()
