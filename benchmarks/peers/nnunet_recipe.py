"""Prepares, trains and applies nnU-Net v2 with its own code, in the environment that has it.

It runs in the environment of `requirements-nnunet.txt`; see `exchange.parser` for its arguments.
Fingerprint, preprocessing, network, loss, optimizer, augmentation, sampling and prediction are
nnU-Net's. Different are: the plan, which is made for less memory or with fewer channels if its
default takes too long (`nnunet_plan`); the length of an epoch; and the learning rate, which follows
the same polynomial over the time instead of over 1,000 epochs.
"""

import importlib.metadata
import json
import pathlib
import random
import time
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image

from benchmarks.peers.exchange import (
    OWN,
    RECIPE,
    SPLITS,
    Clock,
    History,
    exit_on_sigterm,
    parser,
    write_probability,
    write_training,
)
from benchmarks.peers.nnunet_plan import prepare, raw_folder, read_json, trainer_arguments

EPOCHS = 25  # of a training, about; nnU-Net has 1,000
ITERATIONS, VALIDATION_SHARE = (5, 250), 5  # of an epoch: fewest and most; one of five validates
EXPONENT = 0.9  # of nnU-Net's learning rate
# What its checkpoints have besides tensors, so that they can be read without running code.
NUMPY_SCALARS: list[Any] = [np._core.multiarray.scalar, np.dtype, *map(type, map(np.dtype, "fdil"))]


class PolynomialOverTime:
    """nnU-Net's schedule over the time of the clock; its trainer calls `step` once an epoch."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial: float, clock: Clock):
        self._optimizer, self._initial, self._clock = optimizer, initial, clock

    def step(self, _: int | None = None) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._initial * (1 - self._clock.share) ** EXPONENT


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, which ends with the time of its clock; `clock` and `history` are set."""

    clock: Clock
    history: History
    steps = 0
    ended = 0.0  # when the last update ended

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolynomialOverTime]:
        optimizer, _ = super().configure_optimizers()
        return optimizer, PolynomialOverTime(optimizer, self.initial_lr, self.clock)

    def run_training(self) -> None:
        """Trains as the parent does, but until the time is over; every epoch has a step."""
        self.on_train_start()
        while not (self.steps and self.clock.is_over):
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs = [self.train_step(next(self.dataloader_train))]
            while len(outputs) < self.num_iterations_per_epoch and not self.clock.is_over:
                outputs.append(self.train_step(next(self.dataloader_train)))
            self.ended, self.steps = time.time(), self.steps + len(outputs)
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                batches = range(self.num_val_iterations_per_epoch)
                found = [self.validation_step(next(self.dataloader_val)) for _ in batches]
                self.on_validation_epoch_end(found)
            self._record()
            self.on_epoch_end()
        self.on_train_end()

    def _record(self) -> None:
        loss = float(self.logger.get_value("train_losses", step=-1))
        self.history.add(self.steps, self.current_epoch + 1, "train", loss=loss)
        if self.fold != "all":
            dice = float(self.logger.get_value("mean_fg_dice", step=-1))
            self.history.add(self.steps, self.current_epoch + 1, "validation", dice=dice)


def train(folder: pathlib.Path, shared: pathlib.Path, clock: Clock, seed: int) -> None:
    """Trains until the time is over; writes nnU-Net's results folder and `training.json`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer = TimedTrainer(*trainer_arguments())
    trainer.clock, trainer.history = clock, History(folder / "run")
    pace = read_json(shared / RECIPE)["seconds_per_step"]
    iterations = int(np.clip(clock.seconds / pace / EPOCHS, *ITERATIONS))
    trainer.num_iterations_per_epoch = iterations
    trainer.num_val_iterations_per_epoch = max(1, iterations // VALIDATION_SHARE)
    trainer.run_training()
    packages = ("nnunetv2", "torch", "batchgeneratorsv2")
    write_training(
        folder,
        clock.started,
        trainer.ended,
        steps=trainer.steps,
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def predictor_of(folder: pathlib.Path, mirror: bool) -> nnUNetPredictor:
    """Returns nnU-Net's predictor with the final weights of a training."""
    plans, configuration, fold, dataset, device = trainer_arguments()
    manager = PlansManager(plans)
    chosen = manager.get_configuration(configuration)
    (checkpoint,) = (folder / "run").rglob(f"fold_{fold}/checkpoint_final.pth")
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        state = torch.load(checkpoint, map_location=device, weights_only=True)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    channels = determine_num_input_channels(manager, chosen, dataset)
    network = nnUNetTrainer.build_network_architecture(manager, chosen, channels, heads, False)
    predictor = nnUNetPredictor(use_mirroring=mirror, device=device, allow_tqdm=False)
    axes = state["inference_allowed_mirroring_axes"]
    weights = [state["network_weights"]]
    name = state["trainer_name"]
    predictor.manual_initialization(network, manager, chosen, weights, dataset, name, axes)
    return predictor


def predict(
    images: pathlib.Path, folder: pathlib.Path, split: str, mirror: bool, into: pathlib.Path
) -> None:
    """Predicts a split; writes probabilities and, for the test images, nnU-Net's own Dice."""
    predictor, reader = predictor_of(folder, mirror), NaturalImage2DIO()
    masks = into / "masks"
    masks.mkdir(parents=True)
    for path in sorted((images / SPLITS[split] / "images").glob("*.png")):
        image, properties = reader.read_images([str(path)])
        found = predictor.predict_single_npy_array(
            image, properties, save_or_return_probabilities=True
        )
        classes, probabilities = (np.asarray(x) for x in found)
        Image.fromarray(classes[0].astype(np.uint8)).save(masks / path.name)
        write_probability(into, path.stem, probabilities[1, 0])
    if split == "test" and not mirror:
        ignored = read_json(raw_folder() / "dataset.json")["labels"].get("ignore")
        labels = str(raw_folder() / "labelsTs")
        summary = compute_metrics_on_folder(
            labels, str(masks), None, reader, ".png", [1], ignored, num_processes=1
        )
        dice = float(summary["foreground_mean"]["Dice"])
        (folder / OWN).write_text(json.dumps({"dice": dice}) + "\n")


def main() -> None:
    exit_on_sigterm()
    options = parser(__doc__).parse_args()
    if options.stage == "prepare":
        prepare(options.images, options.shared, options.seconds, options.share)
    elif options.stage == "train":
        clock = Clock(options.started, options.seconds)
        train(options.folder, options.shared, clock, options.seed)
    else:
        predict(options.images, options.folder, options.split, options.tta, options.into)


if __name__ == "__main__":
    main()
