"""A report as an evaluation makes it, with a history and pictures, small and by hand."""

import numpy as np

from unet_jax.reporting.overlays import Overlay

EVIL = "<script>document.title='broken'</script>"  # as a name


def statistics(mean: float) -> dict:
    return {"mean": mean, "min": mean - 0.1, "max": mean + 0.05, "pooled": mean}


def make_report() -> dict:
    return {
        "name": "isbi",
        "split": "test",
        "step": 48,
        "checkpoint": "best",
        "loss": 0.1912345,
        "classes": ["membrane", "cell"],
        "threshold": 0.5,
        "aggregate": {
            "loss": {"mean": 0.1912345, "min": 0.1, "max": 0.3, "pooled": None},
            "dice": statistics(0.93),
            "iou": statistics(0.87),
            "pixel_accuracy": statistics(0.9),
        },
        "per_class": {
            "membrane": {"dice": 0.71, "iou": 0.55},
            "cell": {"dice": 0.93, "iou": 0.87},
        },
        "per_image": {
            "slice-11": {"loss": 0.2, "dice": 0.92, "auc": None},
            "slice-03": {"loss": 0.1, "dice": 0.94, "auc": 0.99},
        },
        "versions": {"jax": "0.10.2"},
        "device": "1 x cpu",
        "config_digest": "ab12",
        "parameters": 1942481,
    }


def make_trivial() -> dict:
    return {
        "prediction": "all cell",
        "aggregate": {"dice": statistics(0.88), "recall": statistics(1.0)},
        "per_class": {"membrane": {"dice": 0.0}, "cell": {"dice": 0.88}},
    }


def make_probabilistic(report: dict) -> dict:
    """A report with thresholds and calibration."""
    row = {"dice": 0.9, "iou": 0.8, "pixel_accuracy": 0.7, "v_rand": 0.61, "v_info": 0.62}
    return report | {
        "thresholds": [
            {"rule": "used in this report", "threshold": 0.5, **row},
            {"rule": "best on these images", "threshold": None, **row, "dice": None},
        ],
        "calibration": {
            "error": 0.0321,
            "predicted": [0.1, 0.9],
            "observed": [0.2, 0.8],
            "pixels": [100, 300],
        },
        "pixel_error": 0.0543,
    }


def make_history(steps: int = 60) -> list[dict]:
    train = [
        {"step": s, "epoch": s / 12, "split": "train", "loss": 1 / s} for s in range(1, steps + 1)
    ]
    scores = {"loss": 0.3, "dice": 0.9, "iou": 0.8, "pixel_accuracy": None}
    validation = [
        {"step": s, "epoch": s / 12, "split": "validation", **scores}
        for s in range(12, steps + 1, 12)
    ]
    return train + validation


def make_overlay(
    channels: int = 1, dtype: type = np.uint8, size: tuple[int, int] = (20, 30)
) -> Overlay:
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (*size, channels), dtype)
    label = np.zeros(size, np.uint8)
    label[4:12, 4:20] = 1
    label[:2] = 255
    return Overlay("slice-03", "best: slice-03, Dice 0.94", image, label, np.roll(label % 255, 2))


def overlays_of(classes: int, size=(90, 150)) -> list[Overlay]:
    """Three images with labels and predictions of so many classes."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label, prediction = rng.integers(0, classes, (2, *size), dtype=np.uint8)
    label[:9] = 255
    titles = (f"best: {EVIL}", "median: b", "worst: c")
    return [Overlay(t.split()[1], f"{t}, Dice 0.9", image, label, prediction) for t in titles]
