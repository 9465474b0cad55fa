"""Every published experiment on its real data, for a step or two of a tiny network."""

import dataclasses
import importlib
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest
from launched import ROOT, last_of_each, parse_here, run_here
from own_images import shortest_way
from pictures import _no_pictures as _no_pictures
from PIL import Image

from unet_jax import data
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluate import evaluate
from unet_jax.evaluation.inspection import inspect
from unet_jax.runs.experiment import check, resolve, resolve_intensities
from unet_jax.runs.log import read_history
from unet_jax.training.loop import train
from unet_jax.training.plan import make_plan

EXPERIMENTS = {
    "isbi:small": {"model.padding": "valid", "optim.ema_decay": 0.9},
    "drive:dice": {},
    "drive:native,small": {"data.split": (16, 4)},
    "carvana:sample": {},
    "voc:ce_dice,small": {},
    "ph2:unet2,dice,small": {},
    "ph2:segnet,focal,augmented,small": {},
    "folder": {},
}


def first(dataset: data.dataset.Dataset, **counts: int) -> data.dataset.Dataset:
    """The data set with at most so many images in each split."""
    splits = {
        name: dataclasses.replace(
            split, names=split.names[: counts[name]], sizes=split.sizes[: counts[name]]
        )
        for name, split in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


def own_folder(ph2: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Eight lesions as somebody may have them: JPEG photographs, PNG masks."""
    cases = sorted((ph2 / "PH2Dataset" / "PH2 Dataset images").iterdir())[:8]
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        (folder / kind).mkdir(parents=True)
        for case in cases:
            part = f"{case.name}_Dermoscopic_Image/{case.name}"
            if kind == "masks":
                part = f"{case.name}_lesion/{case.name}_lesion"
            with Image.open(case / f"{part}.bmp") as image:
                image.save(folder / kind / f"{case.name}.{ending}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "changes"), EXPERIMENTS.items())
def test_an_experiment_trains_and_reports(real_data, tmp_path, experiment, changes):
    name, _, options = experiment.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(*filter(None, [options]))
    config.update_from_flattened_dict(changes)
    config.data.root = str(real_data / name)
    if name == "folder":
        config.data.root = str(own_folder(real_data / "ph2", tmp_path / "own"))
    config.data.size = 64
    config.data.crops_per_image = 1
    config.model.width, config.model.depth = 2, 1
    config.batch_size = 2
    config.log.every_steps = 1
    config.eval.batch_size = 2
    config.optim.schedule, config.optim.warmup_epochs = "constant", 0.0
    config.num_epochs = 1
    check(config)
    dataset = first(data.open_dataset(config.data), train=2, validation=1, test=1)
    config, _ = resolve_intensities(resolve(config, dataset.classes), dataset)
    mesh = devices.local_mesh(jax.devices()[:2])
    folder = tmp_path / "run"

    inspect(config, dataset, folder)
    assert (folder / "figures" / "inspection.png").exists()
    report = train(config, dataset, folder, mesh)
    if name == "voc":  # many classes; runs of two classes resume in other tests
        config.num_epochs = 2
        report = train(config, dataset, folder, mesh)
        again = evaluate({folder: config}, dataset, mesh, split="test", checkpoint="best")
        assert again == report
    steps = [line["step"] for line in read_history(folder) if line["split"] == "train"]
    total_steps = make_plan(config, len(dataset.splits["train"])).total_steps
    assert steps == list(range(1, total_steps + 1))
    assert set(report["per_image"]) == set(dataset.splits["test"].names)
    wanted = {
        "isbi": {"dice", "auc", "v_rand", "v_info"},
        "drive": {"dice", "pixel_accuracy", "recall", "specificity", "auc"},
        "carvana": {"dice", "iou", "network_dice"},
        "voc": {"mean_iou", "pixel_accuracy", "mean_accuracy"},
        "ph2": {"iou", "network_iou"},
        "folder": {"dice", "iou", "auc", "network_dice"},
    }
    assert wanted[name] <= report["aggregate"].keys()
    assert (report["observer"] is not None) == (name == "drive")
    page = (folder / "report.md").read_text()
    assert ("no images are held out" in page) == (experiment == "carvana:sample")
    if name == "voc":
        (*_, line) = [line for line in read_history(folder) if line["split"] == "validation"]
        assert 0 <= line["iou/background"] <= 1
    assert ("Comparison with a second observer" in page) == (name == "drive")


def run_in(folder: pathlib.Path, arguments: list[str]) -> None:
    """Runs a command in this process: what a start of its own adds is that of training."""
    assert arguments[0] == "launch.py"
    code, output = run_here(*arguments[1:], folder=folder)
    assert code == 0, output


@pytest.mark.slow
def test_the_walk_with_your_own_images_word_for_word(real_data, tmp_path):
    """As docs/your-own-images.md has it, but with a smaller network and for an epoch."""
    lesions = own_folder(real_data / "ph2", tmp_path / "lesions")
    shutil.copytree(lesions, tmp_path / "clinic-b")
    shutil.copytree(lesions / "images", tmp_path / "new")
    for name in ("launch.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    smaller = ["--config.data.size=64", "--config.model.width=2", "--config.model.depth=1"]
    inspect, train, *others, narrow = shortest_way()
    run_in(tmp_path, inspect)
    arguments = last_of_each((*train, *smaller, "--config.num_epochs=1"))
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    for arguments in others:
        run_in(tmp_path, arguments)
    assert parse_here(*narrow[1:]).config.model.width == 16  # it trains as the other one does
    cases = {path.stem for path in (lesions / "images").iterdir()}
    for folder in ("predicted", "predicted/overlays"):
        assert {path.stem for path in (tmp_path / folder).glob("*.png")} == cases
    run = tmp_path / "runs" / "lesions"
    left = ("figures/inspection.png", "report.html", "report-data-clinic-b-best.html")
    assert all((run / name).exists() for name in left)
    assert (tmp_path / "exported" / "load.py").exists()


def test_the_second_observer_of_drive_scores_what_is_published(real_data):
    """0.788 on all twenty test images; these are the first ten of them."""
    from configs import drive
    from unet_jax.evaluation.scores import second_observer

    config = drive.get_config()
    config.data.root = str(real_data / "drive")
    dataset = data.open_dataset(config.data)
    scores = second_observer(dataset.splits["test"], dataset.classes)
    assert scores["aggregate"]["dice"]["mean"] == pytest.approx(0.788, abs=0.01)
