"""Trains and applies segmentation_models_pytorch's U-Net as its users do, in a plain loop.

It runs in the environment of `requirements-smp.txt`; see `exchange.parser` for its arguments.
"""

import copy
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import albumentations as A  # pyrefly: ignore[missing-import]
import cv2  # pyrefly: ignore[missing-import]
import numpy as np
import segmentation_models_pytorch as smp  # pyrefly: ignore[missing-import]
import torch
from safetensors.torch import load_file
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.peers.exchange import (
    IGNORED,
    OWN,
    RECIPE,
    Case,
    Clock,
    History,
    exit_on_sigterm,
    parser,
    read_cases,
    write_probability,
    write_training,
)

VALIDATIONS, LOG_STEPS = 20, 10
LEARNING_RATE = 1e-3
WORKERS = 2  # of PyTorch's loader
MULTIPLE = 32  # of the sides of what the network sees
WEIGHTS = "weights.pt"
FIRST = "conv_stem.weight"  # of the pretrained encoder
Recipe = dict[str, Any]  # what `peers.smp` wrote


def build(recipe: Recipe) -> torch.nn.Module:
    """Builds the network; its encoder starts from the recipe's weights, if it has any."""
    network = smp.Unet(
        recipe["encoder"], encoder_weights=None, in_channels=recipe["channels"], classes=1
    )
    if recipe["weights"]:
        tensors, encoder = load_file(recipe["weights"]), network.encoder.model
        wanted = [n for n in encoder.state_dict() if not n.endswith("num_batches_tracked")]
        state = {name: tensors[name] for name in wanted}
        if recipe["channels"] == 1:
            state[FIRST] = state[FIRST].sum(1, keepdim=True)  # as smp does it
        encoder.load_state_dict(state, strict=False)
    return network


def augmentation(recipe: Recipe, seed: int) -> A.Compose:
    """Returns the augmentation of smp's CamVid example, with all symmetries of the square.

    Its perspective transform is left out, and so is the change of hue for grey images. Pixels from
    beyond the image are ignored.
    """
    size, colours = recipe["size"], recipe["channels"] == 3
    window = [A.Resize(size, size)]
    if recipe["fit"] == "crop":
        pad = A.PadIfNeeded(size, size, border_mode=cv2.BORDER_CONSTANT, fill_mask=IGNORED)
        window = [pad, A.RandomCrop(size, size)]
    contrast = A.RandomBrightnessContrast(p=1)
    hue = [A.HueSaturationValue(p=1)] if colours else []
    return A.Compose(
        [
            A.SquareSymmetry(p=1),
            A.Affine(
                scale=(0.5, 1.5),
                translate_percent=(-0.1, 0.1),
                border_mode=cv2.BORDER_CONSTANT,
                fill_mask=IGNORED,
                p=1,
            ),
            *window,
            A.GaussNoise(std_range=(0.012, 0.028), p=0.2),
            A.OneOf([A.CLAHE(p=1), contrast, A.RandomGamma(p=1)], p=0.9),
            A.OneOf(
                [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9
            ),
            A.OneOf([contrast, *hue], p=0.9),
            normalize(recipe),
        ],
        seed=seed,
    )


def normalize(recipe: Recipe) -> A.Normalize:
    channels = recipe["channels"]
    return A.Normalize(recipe["mean"][:channels], recipe["std"][:channels])


class Windows(Dataset):
    """The augmented training images."""

    def __init__(self, cases: Sequence[Case], transform: A.Compose):
        self._cases, self._transform = cases, transform

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        case = self._cases[index]
        found = self._transform(image=case.image, mask=case.label)
        return found["image"].transpose(2, 0, 1), found["mask"]


def probability(network: torch.nn.Module, image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Predicts an image, uint8 [H, W, C]; returns float32 [H, W]."""
    (height, width), resized = image.shape[:2], recipe["fit"] == "resize"
    if resized:  # as in training
        image = A.Resize(recipe["size"], recipe["size"])(image=image)["image"]
    x = torch.from_numpy(normalize(recipe)(image=image)["image"].transpose(2, 0, 1))[None]
    with torch.inference_mode():
        if resized:
            found = torch.sigmoid(network(x))
            found = functional.interpolate(found, (height, width), mode="bilinear")
        else:
            below, right = -height % MULTIPLE, -width % MULTIPLE
            x = functional.pad(x, (0, right, 0, below), mode="reflect")
            found = torch.sigmoid(network(x))[..., :height, :width]
    return found[0, 0].numpy()


def mean_dice(found: Sequence[np.ndarray], cases: Sequence[Case]) -> float:
    """Returns smp's own Dice (F1), the mean over the images."""
    values = []
    for predicted, case in zip(found, cases, strict=True):
        counted = case.label != IGNORED
        label = torch.from_numpy(np.where(counted, case.label, 0).astype(np.int64))[None, None]
        output = torch.from_numpy(np.where(counted, predicted, 0))[None, None]
        counts = smp.metrics.get_stats(output, label, mode="binary", threshold=0.5)
        values.append(smp.metrics.f1_score(*counts, reduction="micro-imagewise").item())
    return float(np.mean(values))


def train(images: pathlib.Path, folder: pathlib.Path, recipe: Recipe, clock: Clock, seed: int):
    """Trains until the time is over; writes the weights and `training.json`."""
    torch.manual_seed(seed)
    cases = {split: [*read_cases(images, split)] for split in ("train", "validation")}
    windows = Windows(cases["train"], augmentation(recipe, seed))
    batch = recipe["batch_size"]
    loader = DataLoader(
        windows,
        batch,
        sampler=RandomSampler(windows, replacement=True, num_samples=10**9),
        num_workers=WORKERS,
        persistent_workers=True,
    )
    network, history = build(recipe), History(folder / "run")
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    dice = smp.losses.DiceLoss("binary", ignore_index=IGNORED)
    cross_entropy = smp.losses.SoftBCEWithLogitsLoss(ignore_index=IGNORED)
    per_epoch = max(1, len(cases["train"]) * recipe["crops_per_image"] / batch)
    best, step, ended = (-1.0, network.state_dict()), 0, time.time()
    for step, (image, label) in enumerate(loader, 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 + np.cos(np.pi * clock.share)) / 2
        network.train()
        logits = network(image)
        label = label[:, None].long()
        loss = dice(logits, label) + cross_entropy(logits, label.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % LOG_STEPS == 0:
            history.add(step, step / per_epoch, "train", loss=loss.item())
        due = clock.share * VALIDATIONS >= 1 + history.count("validation")
        if cases["validation"] and (due or clock.is_over):
            network.eval()
            found = [probability(network, case.image, recipe) for case in cases["validation"]]
            value = mean_dice(found, cases["validation"])
            history.add(step, step / per_epoch, "validation", dice=value)
            if value > best[0]:
                best = value, copy.deepcopy(network.state_dict())
        ended = time.time()
        if clock.is_over:
            break
    weights = best[1] if cases["validation"] else network.state_dict()
    torch.save(weights, folder / "run" / WEIGHTS)
    write_training(
        folder,
        clock.started,
        ended,
        steps=step,
        parameters=sum(p.numel() for p in network.parameters()),
        versions={"segmentation_models_pytorch": smp.__version__, "torch": torch.__version__}
        | {"albumentations": A.__version__},
    )


def predict(
    images: pathlib.Path, folder: pathlib.Path, recipe: Recipe, split: str, into: pathlib.Path
) -> None:
    """Predicts a split; writes the probabilities and, for the test images, smp's own Dice."""
    network = build(recipe)
    network.load_state_dict(torch.load(folder / "run" / WEIGHTS, weights_only=True))
    network.eval()
    cases = [*read_cases(images, split)]
    found = [probability(network, case.image, recipe) for case in cases]
    for predicted, case in zip(found, cases, strict=True):
        write_probability(into, case.name, predicted)
    if split == "test":
        (folder / OWN).write_text(json.dumps({"dice": mean_dice(found, cases)}) + "\n")


def main() -> None:
    exit_on_sigterm()
    options = parser(__doc__).parse_args()
    recipe = json.loads((options.shared / RECIPE).read_text())
    if options.stage == "train":
        clock = Clock(options.started, options.seconds)
        train(options.images, options.folder, recipe, clock, options.seed)
    else:
        predict(options.images, options.folder, recipe, options.split, options.into)


if __name__ == "__main__":
    main()
