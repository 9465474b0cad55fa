"""Tests prediction over a folder of damaged and hostile files: valid ones must be predicted.

python -m benchmarks.robustness.fuzz_predict --files=1000 --folder=/tmp/hostile --fit=resize

Mutates images of every format (`readers.py`), including giant ones (`giants.py`), adds valid files,
and predicts all of them in one process, whose address space is limited to --gib above its size
after start-up. The test fails if a valid file has no mask, or if the process exceeds the time
limit, prints a traceback, or does not end with exit code 1. The network is trained for only two
steps, because its weights do not affect the memory use.
"""

import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import tifffile
from PIL import Image

from benchmarks.robustness.readers import READERS
from benchmarks.robustness.samples import noise
from unet_jax.core.command_help import command_parser

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = "launch.py"  # trains the network
KINDS = ("png", "jpeg", "bmp", "gif", "tiff", "stack")
SUFFIXES = {"png": "png", "jpeg": "jpg", "bmp": "bmp", "gif": "gif", "tiff": "tif", "stack": "tif"}
# Prints the memory use of a process that has imported the predictor and started its devices.
IDLE = """
import jax, unet_jax.inference.predict
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
print(open("/proc/self/status").read())
"""


def make_run(folder: pathlib.Path, fit: str) -> pathlib.Path:
    """Trains for two steps on a generated RGB data set, for which grey files are accepted too."""
    sizes = {"data.size": 32, "model.width": 2, "model.depth": 2, "batch_size": 4, "num_epochs": 1}
    fields = sizes | {"data.fit": fit, "data.split": "(8,1,1)", "data.root": folder / "data"}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    images, masks = folder / "data/images", folder / "data/masks"
    for place in (images, masks):
        place.mkdir(parents=True)
    for i in range(10):
        Image.fromarray(noise((40, 33 + i, 3))).save(images / f"{i}.png")
        Image.fromarray(noise((40, 33 + i)) // 128 * 255).save(masks / f"{i}.png")
    command = [sys.executable, LAUNCHER, "--config=configs/folder.py", *flags]
    done = subprocess.run(
        [*command, f"--workdir={folder / 'run'}"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the training failed:\n{done.stdout}{done.stderr}")
    return folder / "run"


def write_good(folder: pathlib.Path, count: int) -> list[str]:
    """Writes valid images and stacks of several formats; returns the file names of their masks."""
    made = []
    for i in range(count):
        kind, name = ("png", "jpg", "bmp", "tif", "stack", "tiles")[i % 6], f"good-{i:04d}"
        path = folder / f"{name}.{kind if i % 6 < 4 else 'tif'}"
        if kind in ("stack", "tiles"):
            options: dict[str, Any] = {"tile": (16, 32)} if kind == "tiles" else {}
            pixels = noise((3, 40, 50 + i % 3))
            tifffile.imwrite(path, pixels, compression="zlib", photometric="minisblack", **options)
        else:
            Image.fromarray(noise((40, 50 + i % 3))).save(path)
        made.append(f"{name}.{'tif' if path.suffix == '.tif' else 'png'}")
    return made


def write_mutated(folder: pathlib.Path, count: int, seed: int) -> None:
    """Writes `count` mutated files, equally many of each format; a few may still be valid."""
    with tempfile.TemporaryDirectory() as scratch:
        contents = {}
        for kind in KINDS:
            place = pathlib.Path(scratch) / kind
            place.mkdir()
            READERS[kind].make(place)
            contents[kind] = [path.read_bytes() for path in sorted(place.iterdir())]
    for i in range(count):
        kind, rng = KINDS[i % len(KINDS)], random.Random(f"{seed} {i}")
        content, other = rng.choices(contents[kind], k=2)
        reader = READERS[kind]
        mutations = reader.repaired if reader.repaired and i % 2 else reader.mutations
        content = rng.choice(mutations)(content, other, rng)
        (folder / f"{rng.randrange(10**9):09d}-{i:04d}.{SUFFIXES[kind]}").write_bytes(content)


def idle_bytes() -> int:
    """Measures the peak address space of a process that is ready to predict, in bytes."""
    out = subprocess.run(
        [sys.executable, "-c", IDLE], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return int(re.findall(r"VmPeak:\s+(\d+) kB", out)[0]) * 1024


def predict(
    run: pathlib.Path, folder: pathlib.Path, output: pathlib.Path, room: int, seconds: float
) -> tuple[int, str]:
    """Predicts a folder within `room` bytes of address space; returns exit code and output."""
    flags = ["--mode=predict", f"--workdir={run}", f"--input={folder}", f"--output={output}"]
    process = subprocess.Popen(
        [sys.executable, "launch.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    # From here, not in the child before it starts: a fork of a process that uses JAX may deadlock.
    resource.prlimit(process.pid, resource.RLIMIT_AS, (room, room))
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        text += f"\nkilled after {seconds:g} s"
    return process.returncode, text


def main(arguments: Sequence[str]) -> int:
    """Runs the test and prints a JSON report; returns 1 if it fails."""
    parser = command_parser("python -m benchmarks.robustness.fuzz_predict", __doc__)
    group = parser.add_argument_group("files")
    group.add_argument("--files", type=int, default=1000, help="number of mutated files")
    group.add_argument("--good", type=int, default=60, help="number of valid files")
    group.add_argument("--seed", type=int, default=0, help="seeds the mutations")
    group.add_argument(
        "--folder", type=pathlib.Path, required=True, help="new folder for all files"
    )
    group = parser.add_argument_group("run and limits")
    group.add_argument(
        "--fit", choices=("crop", "resize"), default="crop", help="data.fit of the run"
    )
    group.add_argument(
        "--gib", type=float, default=4, help="memory limit above that of an idle process, GiB"
    )
    group.add_argument("--seconds", type=float, default=3600, help="time limit of the prediction")
    options = parser.parse_args(arguments)
    files, output = options.folder / "files", options.folder / "masks"
    shutil.rmtree(output, ignore_errors=True)
    files.mkdir(parents=True)
    run = make_run(options.folder, options.fit)
    write_mutated(files, options.files, options.seed)
    masks = write_good(files, options.good)
    room = idle_bytes() + int(options.gib * 2**30)
    began = time.perf_counter()
    code, text = predict(run, files, output, room, options.seconds)
    (options.folder / "output.txt").write_text(text)
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    report = {
        "files": options.files,
        "good": len(masks),
        "good predicted": sum((output / name).exists() for name in masks),
        "predicted": len(list(output.glob("*.*"))) - 1,  # without prediction.json
        "refused": len(lines),
        "of memory": sum("needs more memory" in x or "llocat" in x for x in lines),
        "traceback": "Traceback" in text,
        "exit code": code,
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(report, indent=1))
    good = report["good predicted"] == len(masks) and code == 1 and not report["traceback"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
