"""Reports that have every section, and their pages."""

import numpy as np
import pytest
from made_reports import (
    EVIL,
    make_history,
    make_probabilistic,
    make_report,
    make_trivial,
    overlays_of,
    statistics,
)

from configs import base
from unet_jax.reporting.html.report import render


@pytest.fixture
def full() -> dict:
    """A report of two classes that has every section."""
    report = make_probabilistic(make_report()) | {"trivial": make_trivial()}
    row = {"dice": 0.78, "iou": 0.66}
    report["observer"] = {
        "aggregate": {"dice": statistics(0.78)},
        "per_image": dict.fromkeys(report["per_image"], row),
    }
    report["confusion"] = [[750, 250], [0, 4000]]
    report["notes"] = ["palette masks"]
    return report


@pytest.fixture
def many() -> dict:
    """A report of 21 classes and 40 images whose names are long or look like HTML."""
    classes = ["background", EVIL, *(f"class-{k}" for k in range(2, 21))]
    rng = np.random.default_rng(0)
    names = [EVIL, "long-" * 30, *(f"2007_{i:06d}" for i in range(38))]
    metrics = ("loss", "pixel_accuracy", "mean_accuracy", "mean_iou")
    per_image = {name: dict(zip(metrics, rng.random(4), strict=True)) for name in names}
    per_image[names[5]]["mean_iou"] = None
    confusion = rng.integers(0, 10**7, (21, 21))
    confusion[3] = 0
    return make_report() | {
        "name": EVIL,
        "classes": classes,
        "threshold": None,
        "aggregate": {metric: statistics(0.5) for metric in metrics},
        "per_class": {name: {"dice": 0.5, "iou": None} for name in classes},
        "per_image": per_image,
        "confusion": confusion.tolist(),
        "notes": [EVIL],
        "versions": {EVIL: EVIL},
        "device": EVIL,
    }


@pytest.fixture
def pages(tmp_path, full, many):
    """The folder of two.html and many.html."""
    config = base.get_config().to_dict() | {"name": "long-" * 30}
    splits = {"train": ["x" * 200, "y"], "test": []}
    full["per_image"] |= {f"IMD{i:03d}": {"loss": i / 7, "dice": i / 40} for i in range(40)}
    written = {
        "two": render(full, make_history(400), overlays_of(2), config, splits, "isbi"),
        "many": render(many, make_history(), overlays_of(21), config, splits, "voc"),
    }
    for name, page in written.items():
        (tmp_path / f"{name}.html").write_text(page)
    return tmp_path
