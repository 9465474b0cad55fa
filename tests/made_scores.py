"""Scores of images by hand."""

import dataclasses

import numpy as np

from unet_jax.metrics.calibration import BINS
from unet_jax.metrics.em_challenge import THRESHOLDS
from unet_jax.metrics.registry import Counts, Score


def score(name, loss, confusion, below=0.25, above=0.75):
    """Pixels predicted as class 0 have the probability `below`, the others `above`."""
    confusion = np.array(confusion)
    histogram = np.zeros((2, BINS), np.int64)
    if len(confusion) == 2:
        histogram[:, round(below * BINS) - 1] = confusion[:, 0]
        histogram[:, round(above * BINS) - 1] = confusion[:, 1]
    return Score(name, Counts(loss, confusion, histogram))


def with_cells(made, v_rand, v_info):
    """V^Rand and V^Info at the challenge's thresholds and at 0.25, 0.5 and 0.75."""
    values = {"v_rand": (v_rand, 0.1, 0.2, 0.3), "v_info": (v_info, 0.2, 0.2, 0.4)}
    curves = {
        key: dict(zip(THRESHOLDS, curve, strict=True))
        | {0.25: low, 0.75: high}
        | ({0.5: middle} if 0.5 not in THRESHOLDS else {})
        for key, (curve, low, middle, high) in values.items()
    }
    return dataclasses.replace(made, curves=curves)
