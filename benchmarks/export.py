"""Compares exported networks in ONNX Runtime with the run itself: scores, probabilities and time.

python -m benchmarks.export --run=runs/isbi-small

exports the run in each format and applies the files to the images of a split. It prints the mean
scores and the time of a batch on the CPU, for JAX and for each format, and how far the format's
probabilities and masks are from JAX's. JAX's time is that of the network of `--mode=predict`
without files, on as many devices as it has there. All are timed in turns.
"""

import functools
import json
import os
import pathlib
import statistics
import tempfile
import time
import types
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import onnxruntime

from benchmarks.timing import Run
from unet_jax.core.command_help import command_parser
from unet_jax.core.files import write_json
from unet_jax.data.dataset import Split
from unet_jax.data.fit import Fit
from unet_jax.distributed import devices
from unet_jax.inference.predictor import Predictor, decide, load
from unet_jax.interchange.onnx import IMAGES, MASK, NETWORK, PROBABILITIES
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.metrics import overlap
from unet_jax.runs.experiment import open_data, read_configs
from unet_jax.runs.shared_checkpoints import decided_by_run

FORMATS = ("onnx", "onnx_float16", "onnx_int8")
Prediction = tuple[np.ndarray, np.ndarray]  # class ids [H, W], probabilities [H, W, K]


def apply_jax(predictor: Predictor, image: np.ndarray, threshold: float) -> Prediction:
    """Predicts an image [H, W, C] as the run does."""
    tile = types.SimpleNamespace(image=image, surrounded=False)
    ((_, probabilities),) = predictor.stream([tile])
    return decide(probabilities, threshold), probabilities


def apply_session(session: onnxruntime.InferenceSession, image: np.ndarray) -> Prediction:
    """Predicts an image [H, W, C] with an exported network."""
    outputs = session.run([MASK, PROBABILITIES], as_input([image]))
    mask, probabilities = map(np.asarray, outputs)
    return mask[0], probabilities[0].transpose(1, 2, 0)


def session_of(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads would count as time of the CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def as_input(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Converts images [H, W, C] of equal sizes to the input of an exported network."""
    return {IMAGES: np.stack(images).astype(np.float32).transpose(0, 3, 1, 2)}


def scores_of(found: Sequence[Prediction], split: Split, classes: int) -> dict[str, float]:
    """Returns the mean scores of the first images of a split."""
    labels = [split.read(index)[1] for index in range(len(found))]
    scores = [
        overlap.headline_metrics(overlap.confusion(label, mask, classes))
        for label, (mask, _) in zip(labels, found, strict=True)
    ]
    return {key: float(np.nanmean([score[key] for score in scores])) for key in scores[0]}


def distance(found: Sequence[Prediction], expected: Sequence[Prediction]) -> dict[str, float]:
    """Returns how far predictions are from others: of probabilities, and the share of pixels."""
    pairs = [*zip(found, expected, strict=True)]
    return {
        "largest_difference": max(float(abs(a[1] - b[1]).max()) for a, b in pairs),
        "share_of_other_pixels": statistics.mean(float((a[0] != b[0]).mean()) for a, b in pairs),
    }


def timed_runs(
    predictor: Predictor, sessions: dict[str, onnxruntime.InferenceSession], images: list
) -> dict[str, Run]:
    """Returns what is timed: one batch of images, by JAX and by each session."""
    tiles = [types.SimpleNamespace(image=image, surrounded=False) for image in images]
    inputs = as_input(images)

    def run_jax() -> None:
        for _ in predictor.stream(tiles):
            pass

    def run_session(session: onnxruntime.InferenceSession) -> None:
        session.run(None, inputs)

    runs = {name: functools.partial(run_session, session) for name, session in sessions.items()}
    return {"jax": run_jax} | runs


def measure(runs: dict[str, Run], rounds: int) -> dict[str, dict[str, Any]]:
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


def main() -> None:
    parser = command_parser("python -m benchmarks.export", __doc__)
    group = parser.add_argument_group("network and images")
    group.add_argument("--run", required=True, help="the run's folder")
    group.add_argument("--split", default="test", help="the split whose images are used")
    group.add_argument("--images", type=int, default=30, help="the most images that are scored")
    group = parser.add_argument_group("measurement")
    group.add_argument("--batch", type=int, default=2, help="images that are timed at once")
    group.add_argument("--threads", type=int, default=os.cpu_count(), help="of ONNX Runtime")
    group.add_argument("--rounds", type=int, default=9, help="rounds of the timing; 0: none")
    group.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    ((folder, config),) = read_configs([options.run]).items()
    devices.use_cores(options.batch)
    config, dataset = open_data(decided_by_run(config, folder), folder, evaluated=True)
    if Fit.of(config.data).resizes:
        parser.error("the run resizes its images: only runs with data.fit=crop can be compared")
    split, classes = dataset.splits[options.split], len(dataset.classes)
    _, predictor = load({folder: config}, "best", devices.local_mesh())
    images = [split.read(index)[0] for index in range(min(len(split), options.images))]
    expected = [apply_jax(predictor, image, config.eval.threshold) for image in images]
    results: dict[str, Any] = {"jax": {"scores": scores_of(expected, split, classes)}}
    sessions = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in FORMATS:
            output = pathlib.Path(temporary) / name
            EXPORTERS[name](folder, config, checkpoint="best", output=output)
            model = (output / NETWORK).read_bytes()
            sessions[name] = session_of(model, options.threads)
            found = [apply_session(sessions[name], image) for image in images]
            results[name] = {"mib": len(model) / 2**20}
            results[name]["scores"] = scores_of(found, split, classes)
            results[name] |= distance(found, expected)
    if options.rounds:
        alike = [image for image in images if image.shape == images[0].shape][: options.batch]
        times = measure(timed_runs(predictor, sessions, alike), options.rounds)
        results = {name: result | times[name] for name, result in results.items()}
    content = {
        "run": options.run,
        "split": options.split,
        "images": len(images),
        "batch": options.batch,
        "devices": jax.local_device_count(),
        "threads": options.threads,
        "versions": {"jax": jax.__version__, "onnxruntime": onnxruntime.__version__},
        "results": results,
    }
    print(json.dumps(content, indent=1))
    if options.out:
        write_json(options.out, content)


if __name__ == "__main__":
    main()
