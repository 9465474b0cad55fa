"""Measures the throughput and peak memory of a prediction, and of the forward pass on its own.

python -m benchmarks.predict image --volume=data/isbi/train-volume.tif --folder=/tmp/big
python -m benchmarks.predict stack --volume=data/isbi/train-volume.tif --folder=/tmp/big

The image has 20,000 x 20,000 pixels, the stack 1,000 slices of 512 x 512. Both consist of ISBI's
slices, mirrored and repeated, and are compressed. The network is untrained, which does not affect
the speed. "Alone" is the forward pass without files: one batch repeated, with its probabilities
copied to the host, measured before and after the prediction.
"""

import json
import pathlib
import time
import types
import zlib
from collections.abc import Iterator

import numpy as np
import tifffile
from ml_collections import ConfigDict

from benchmarks.process_memory import process_memory_mib
from configs import base
from unet_jax import models
from unet_jax.core.command_help import command_parser
from unet_jax.core.compilation import keep_compiled
from unet_jax.core.config import digest
from unet_jax.core.files import write_json
from unet_jax.distributed import devices
from unet_jax.inference import predict, tiling
from unet_jax.inference.outputs import Extras
from unet_jax.inference.predictor import Predictor, load
from unet_jax.runs.checkpoints import Checkpoints

STRIP = 64  # rows of the TIFF in a compressed strip
FORWARD_SECONDS = 20.0  # seconds for each measurement of the forward pass


def write_image(path: pathlib.Path, slices: np.ndarray, side: int) -> None:
    """Writes a TIFF with one page of side x side pixels."""
    columns = tiling.seen_pixels(0, side, slices.shape[2])

    def strips() -> Iterator[bytes]:
        for start in range(0, side, STRIP):
            rows = tiling.seen_pixels(start, min(start + STRIP, side), slices.shape[1])
            yield zlib.compress(slices[start // 2048 % len(slices)][rows][:, columns].tobytes())

    with tifffile.TiffWriter(path) as file:
        options = {"compression": "zlib", "rowsperstrip": STRIP, "photometric": "minisblack"}
        file.write(strips(), shape=(side, side), dtype=np.uint8, **options)


def write_stack(path: pathlib.Path, slices: np.ndarray, count: int) -> None:
    with tifffile.TiffWriter(path) as file:
        for i in range(count):
            file.write(slices[i % len(slices)], compression="zlib", contiguous=False)


def make_run(folder: pathlib.Path, width: int) -> ConfigDict:
    """Creates a run folder with an untrained network."""
    config = base.get_config()
    config.model.width = width
    variables = models.init(models.build(**config.model), 1, config.seed)
    checkpoints = Checkpoints(folder, 1, config.to_dict())
    checkpoints.save(0, {"model": variables})
    checkpoints.close()
    write_json(folder / "config.json", {"digest": digest(config), "config": config.to_dict()})
    return config


def measure_forward(predictor: Predictor, size: tuple[int, int]) -> float:
    """Measures the network's input pixels per second, without files."""
    tile = types.SimpleNamespace(image=np.zeros((*size, 1), np.uint8), surrounded=False)
    count = predictor.batch_size(*size)
    for _ in predictor.stream([tile] * count):  # compiles
        pass
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < FORWARD_SECONDS:
        done += sum(1 for _ in predictor.stream([tile] * (4 * count)))
    return done * size[0] * size[1] / spent


def main() -> None:
    parser = command_parser("python -m benchmarks.predict", __doc__)
    parser.add_argument("what", choices=("image", "stack"), help="what is predicted")
    parser.add_argument("--volume", type=pathlib.Path, required=True, help="TIFF of ISBI's slices")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="needs 2 GiB of space")
    parser.add_argument("--width", type=int, default=4, help="width of the network, of depth 4")
    parser.add_argument("--side", type=int, default=20_000, help="side of the image, pixels")
    parser.add_argument("--slices", type=int, default=1_000, help="slices of the stack")
    parser.add_argument("--tile", type=int, default=1024, help="side of a tile, pixels")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    source, run = options.folder / f"{options.what}.tif", options.folder / f"run-{options.width}"
    slices = tifffile.imread(options.volume)
    if options.what == "image":
        write_image(source, slices, options.side)
        axis = tiling.Axis.plan(options.side, options.tile, 192, 16)
        tile, tiles, pixels = (axis.side,) * 2, len(axis.starts) ** 2, options.side**2
    else:
        write_stack(source, slices, options.slices)
        tile, tiles = slices[0].shape, options.slices
        pixels = slices[0].size * options.slices
    keep_compiled()
    devices.use_cores(base.get_config().eval.batch_size)
    config, mesh = make_run(run, options.width), devices.local_mesh()
    predictor = load({run: config}, "last", mesh).predictor
    forward_rates = [measure_forward(predictor, tile)]
    start = time.perf_counter()
    bad = predict.predict(
        {run: config},
        mesh,
        wanted=str(source),
        output=options.folder / f"masks-{options.what}-{time.time():.0f}",
        checkpoint="last",
        side=options.tile,
        extras=Extras(),
    )
    seconds = time.perf_counter() - start
    forward_rates.append(measure_forward(predictor, tile))
    seen = tiles * tile[0] * tile[1]
    content = {
        "what": options.what,
        "width": options.width,
        "device": devices.describe(mesh),
        "bad": bad,
        "seconds": seconds,
        "peak_memory_gib": process_memory_mib("VmHWM") / 2**10,
        "image_pixels_per_second": pixels / seconds,
        "seen_pixels_per_second": seen / seconds,
        "seen_pixels_per_second_alone": forward_rates,
        "share_of_alone": seen / seconds / np.mean(forward_rates),
        "seen_pixels_per_image_pixel": seen / pixels,
    }
    print(json.dumps(content, indent=1))
    if options.out:
        write_json(options.out, content)


if __name__ == "__main__":
    main()
