"""Plans and preprocesses the images with nnU-Net's own code, in the environment that has it."""

import json
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image

from benchmarks.peers.exchange import IGNORED, RECIPE, SPLITS, read_cases

NUMBER, NAME, PLANS = 1, "Dataset001_peers", "nnUNetPlans"
MEMORY_GB = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # that plans are made for; the default is last
WIDTHS = (32, 16)  # of the first stage; the default is first
LEAST_STEPS = 3000  # that a plan must be able to take; as `unet_jax.training.planning` wants
COARSER = 1.03  # a step to a lower resolution, as nnU-Net makes its 3d_lowres
DEPTH = 999.0  # the spacing that nnU-Net gives to the missing axis of 2-D images
CHANNELS = {1: ("grey",), 3: ("R", "G", "B")}


class Planner(ExperimentPlanner):
    """nnU-Net's planner, with another number of channels in the first stage.

    Args:
      memory_gb: the GPU memory that the plan is made for.
      width: number of channels.
      spacing: pixels of the files per pixel of the network.
    """

    def __init__(self, memory_gb: float, width: int, spacing: float = 1.0):
        super().__init__(
            NUMBER,
            gpu_memory_target_in_gb=memory_gb,
            plans_name=PLANS,
            overwrite_target_spacing=[DEPTH, spacing, spacing],
        )
        self.UNet_base_num_features = width

    def plan(self) -> dict[str, Any]:
        """Writes the plans; returns that of the 2-D network."""
        return self.plan_experiment()["configurations"]["2d"]


def raw_folder() -> pathlib.Path:
    return pathlib.Path(os.environ["nnUNet_raw"]) / NAME


def preprocessed_folder() -> pathlib.Path:
    return pathlib.Path(os.environ["nnUNet_preprocessed"]) / NAME


def read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def trainer_arguments() -> tuple[dict[str, Any], str, int | str, dict[str, Any], torch.device]:
    """Returns what an `nnUNetTrainer` is made of. Without validation images, fold is `all`."""
    plans = read_json(preprocessed_folder() / f"{PLANS}.json") | {"continue_training": False}
    (split,) = read_json(preprocessed_folder() / "splits_final.json")
    fold = 0 if split["val"] else "all"
    return plans, "2d", fold, read_json(raw_folder() / "dataset.json"), torch.device("cpu")


def prepare(images: pathlib.Path, shared: pathlib.Path, seconds: float, share: float) -> None:
    """Converts the images, plans, preprocesses, and writes `recipe.json`.

    Args:
      images: the folder that `images.lay_out` wrote.
      shared: the folder of what all seeds share.
      seconds: time of a training.
      share: the resolution is reduced until a window covers this share of an image.
    """
    splits = _write_raw(images)
    processes = int(os.environ["nnUNet_def_n_proc"])
    plan_and_preprocess_api.extract_fingerprints([NUMBER], num_processes=processes)
    Planner(MEMORY_GB[0], WIDTHS[-1]).plan()
    _preprocess(splits, processes)
    chosen: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for memory_gb in MEMORY_GB:
        for width in WIDTHS:
            found = _timed(memory_gb, width)
            if found["seconds_per_step"] * LEAST_STEPS <= seconds:
                chosen = found
                break
        else:
            break  # this memory takes too long with any width
    chosen = chosen or found  # the smallest plan, if all take too long
    spacing = 1.0
    plan = Planner(chosen["memory_gb"], chosen["width"]).plan()
    while _share(plan) < share:
        spacing *= COARSER
        plan = Planner(chosen["memory_gb"], chosen["width"], spacing).plan()
    if spacing > 1:
        _preprocess(splits, processes)
        chosen = _timed(chosen["memory_gb"], chosen["width"], spacing)
    chosen |= {"spacing": spacing, "share": _share(plan), "least_steps": LEAST_STEPS}
    write_json(shared / RECIPE, chosen)


def _share(plan: dict[str, Any]) -> float:
    """Returns the share of an image of median size that a window covers."""
    window, image = (np.array(plan[x]) for x in ("patch_size", "median_image_size_in_voxels"))
    return float(np.minimum(window, image).prod() / image.prod())


def _preprocess(splits: dict[str, list[str]], processes: int) -> None:
    plan_and_preprocess_api.preprocess_dataset(NUMBER, PLANS, ["2d"], [processes])
    write_json(preprocessed_folder() / "splits_final.json", [splits])


def _timed(memory_gb: float, width: int, spacing: float = 1.0) -> dict[str, Any]:
    """Plans for this memory and width, and times a training step, without its input."""
    configuration = Planner(memory_gb, width, spacing).plan()
    trainer = nnUNetTrainer(*trainer_arguments())
    trainer.initialize()
    patch, size = configuration["patch_size"], configuration["batch_size"]
    rng, channels = np.random.default_rng(0), trainer.num_input_channels
    image = rng.standard_normal((size, channels, *patch)).astype(np.float32)
    scales = trainer._get_deep_supervision_scales()
    shapes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales]
    labels = [torch.from_numpy(rng.integers(0, 2, (size, 1, *shape))) for shape in shapes]
    times = []
    for _ in range(3):  # the first allocates memory
        start = time.perf_counter()
        trainer.train_step({"data": torch.from_numpy(image), "target": labels})
        times.append(time.perf_counter() - start)
    shutil.rmtree(trainer.output_folder_base)
    stages = configuration["architecture"]["arch_kwargs"]["n_stages"]
    found = {"memory_gb": memory_gb, "width": width, "patch_size": [int(n) for n in patch]}
    found |= {"batch_size": int(size), "stages": int(stages), "seconds_per_step": min(times[1:])}
    print(f"timed plan {found}", flush=True)
    return found


def _write_raw(images: pathlib.Path) -> dict[str, list[str]]:
    """Writes the images in nnU-Net's layout; returns the names of the splits."""
    raw, names = raw_folder(), {"train": [], "validation": [], "test": []}
    shutil.rmtree(raw, ignore_errors=True)
    shutil.rmtree(preprocessed_folder(), ignore_errors=True)
    lines = (images / "classes.txt").read_text().splitlines()
    labels = dict(line.split(" ", 1)[::-1] for line in lines[:2])
    ignore, channels = len(labels), 1
    for split in SPLITS:
        suffix = "Ts" if split == "test" else "Tr"
        for folder in (raw / f"images{suffix}", raw / f"labels{suffix}"):
            folder.mkdir(parents=True, exist_ok=True)
        for case in read_cases(images, split):
            names[split].append(case.name)
            channels = case.image.shape[2]
            picture = case.image[..., 0] if channels == 1 else case.image
            label = np.where(case.label == IGNORED, ignore, case.label).astype(np.uint8)
            Image.fromarray(picture).save(raw / f"images{suffix}" / f"{case.name}_0000.png")
            Image.fromarray(label).save(raw / f"labels{suffix}" / f"{case.name}.png")
    named = {"background": 0, list(labels)[1]: 1}
    named |= {"ignore": ignore} if len(lines) > len(labels) else {}
    cases = [*names["train"], *names["validation"]]
    # Without this list nnU-Net searches the folder with 12 forked processes. After a training step
    # was timed in this process, such a process may wait forever for a lock of PyTorch's threads.
    files = {
        name: {"images": [f"imagesTr/{name}_0000.png"], "label": f"labelsTr/{name}.png"}
        for name in cases
    }
    write_json(
        raw / "dataset.json",
        {
            "channel_names": dict(enumerate(CHANNELS[channels])),
            "labels": named,
            "numTraining": len(cases),
            "file_ending": ".png",
            "dataset": files,
        },
    )
    return {"train": names["train"], "val": names["validation"]}
