"""Comparison of two runs image by image, on the images that both were scored on."""

import dataclasses
from collections.abc import Container, Sequence

import numpy as np
import scipy

from unet_jax.metrics import bootstrap
from unet_jax.metrics.registry import Metric, in_order
from unet_jax.reporting.sections import Record, Table, rows_of, same_settings

EXPLANATION = """\
- **Difference**: the mean over the images of the run's value minus that of the first run. Images \
without a value in one of the two are left out.
- **95 % CI**: its confidence interval, by the percentile bootstrap over the images, each drawn \
with its values of both runs. If it does not contain 0, which images were tested does not explain \
the difference, even if the intervals of the scores overlap. Of fewer than 20 images it is too \
narrow.
- **Better, worse, equal**: the number of images on which the run is better, worse or equal.
- **Sign test**: the two-sided probability of so uneven a split into better and worse images, or a \
more uneven one, if both were equally likely. Equal images are left out.
- This compares two trained networks. Other seeds of the same configs may differ by more. And of \
twenty metrics, one has p < 0.05 by chance: decide beforehand which one counts."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """The second run beside the first in one metric."""

    metric: Metric
    difference: float  # mean over the images of the second run's value minus the first's
    interval: tuple[float, float] | None  # its confidence interval; None for fewer than two images
    better: int  # images on which the second run is better
    worse: int
    equal: int
    p: float | None  # of the two-sided sign test; None if all images are equal


def compare(first: Record, second: Record, without: Container[str] = ()) -> list[Paired] | str:
    """Compares the reports of two runs image by image.

    Args:
      first: the report of the run to compare with.
      second: the report of the other run.
      without: keys of metrics that do not compare.

    Returns:
      The metrics that both have for an image, in the order of reports; or the reason why the runs
      do not compare.
    """
    images = rows_of(first, "per_image"), rows_of(second, "per_image")
    if images[0].keys() != images[1].keys():
        shared = len(images[0].keys() & images[1].keys())
        return (
            f"the runs are scored on different images ({len(images[0])} and {len(images[1])}, of "
            f"which {shared} have the same name)"
        )
    if first["classes"] != second["classes"]:
        return "the runs segment different classes"
    compared = []
    for metric in in_order():
        columns = [[rows[name].get(metric.key) for name in images[0]] for rows in images]
        values = np.array(columns, np.float64)  # None becomes NaN
        comparable = metric.key not in without and same_settings(metric.key, [first, second])
        if comparable and not np.isnan(values[1] - values[0]).all():
            compared.append(_compare(metric, values[1] - values[0]))
    return compared or "the runs have no metric in common"


def _compare(metric: Metric, differences: np.ndarray) -> Paired:
    known = differences[~np.isnan(differences)]
    low, high = bootstrap.mean_intervals(differences[:, None])[0]
    higher, lower = int((known > 0).sum()), int((known < 0).sum())
    better, worse = (higher, lower) if metric.better == "higher" else (lower, higher)
    untied = better + worse
    return Paired(
        metric,
        difference=float(known.mean()),
        interval=None if np.isnan(low) else (float(low), float(high)),
        better=better,
        worse=worse,
        equal=len(known) - untied,
        p=float(scipy.stats.binomtest(better, untied).pvalue) if untied else None,
    )


def table(comparison: Sequence[Paired]) -> Table:
    """Tabulates what `compare` returns."""
    head = ["metric", "difference", "95 % CI", "better", "worse", "equal", "sign test"]
    rows = [
        [
            row.metric.title,
            f"{row.difference:+.4f}",
            "[{:+.4f}, {:+.4f}]".format(*row.interval) if row.interval else None,
            row.better,
            row.worse,
            row.equal,
            None if row.p is None else f"p = {row.p:.2g}",
        ]
        for row in comparison
    ]
    return Table(head, rows)
