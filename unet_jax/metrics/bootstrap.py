"""Confidence intervals over the images of a split: the percentile bootstrap.

Images are drawn with replacement, as many as there are, and a statistic is computed from each draw.
The interval has the middle 95 % of these values (Efron and Tibshirani, 1993, An Introduction to the
Bootstrap, section 13.3). It shows how much a score depends on which images happened to be tested,
and nothing about other seeds of the training. The draws are seeded: reports and comparisons of the
same number of images share them.
"""

from collections.abc import Iterator

import numpy as np

LEVEL, DRAWS, SEED = 0.95, 1000, 0
CHUNK = 250  # draws at a time, which limits the memory that many images need


def draws(images: int) -> Iterator[np.ndarray]:
    """Yields how often each image is in each draw, float64 [CHUNK, images], `DRAWS` in all."""
    generator = np.random.default_rng(SEED)
    for _ in range(DRAWS // CHUNK):
        drawn = generator.integers(0, images, (CHUNK, images))
        drawn += images * np.arange(CHUNK)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=CHUNK * images)
        yield counts.reshape(CHUNK, images).astype(np.float64)


def mean_intervals(values: np.ndarray) -> np.ndarray:
    """Computes the interval of the mean over the images for which a metric is defined.

    Args:
      values: of N images and M metrics, float64 [N, M]; NaN is undefined.

    Returns:
      The low and the high end, float64 [M, 2]; NaN if fewer than two images have a value.
    """
    known = ~np.isnan(values)
    intervals = percentiles(means_of_draws(values))
    intervals[known.sum(0) < 2] = np.nan
    return intervals


def means_of_draws(values: np.ndarray) -> np.ndarray:
    """Computes the mean of each draw.

    Args:
      values: float64 [N, M]; NaN is undefined and enters no mean.

    Returns:
      float64 [DRAWS, M]; NaN where no image of a draw has a value.
    """
    known = ~np.isnan(values)
    # Without the mean, equal values give exactly their mean.
    centre = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
    deviations = np.where(known, values - centre, 0)
    means = []
    for weights in draws(len(values)):
        counts = weights @ known.astype(np.float64)
        sums = weights @ deviations
        means.append(centre + np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    return np.concatenate(means)


def percentiles(statistics: np.ndarray) -> np.ndarray:
    """Returns the interval of statistics of draws.

    Args:
      statistics: float64 [DRAWS, M]; NaN is left out.

    Returns:
      The low and the high end, float64 [M, 2]; NaN if no draw has a value.
    """
    intervals = np.full((statistics.shape[1], 2), np.nan)
    known = ~np.isnan(statistics).all(0)
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    if known.any():
        intervals[known] = np.nanquantile(statistics[:, known], ends, axis=0).T
    return intervals
