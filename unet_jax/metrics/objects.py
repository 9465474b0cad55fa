"""Objects: how many are found, and how well each is outlined (average precision, panoptic quality).

The objects of a mask are its connected components, or the parts of these that a watershed separates
(`unet_jax.metrics.partition`). Those of a label are its instance ids if the data set has them;
pixels of a class that no id numbers are divided as a prediction is.
Objects of fewer than `eval.min_object_pixels` pixels are left out on both sides.

A predicted and a labelled object match at a threshold t if their IoU is above t. As t is at least
0.5, an object has at most one match; at exactly 0.5 it could have two, so that an IoU of t itself
is no match, as in Kirillov et al. and in the Data Science Bowl 2018 (Cellpose counts it as one).
With TP matches, FP predicted and FN labelled objects without a match,

    AP(t) = TP / (TP + FP + FN)
    SQ = mean IoU of the matches at 0.5,  RQ = 2 TP / (2 TP + FP + FN),  PQ = SQ * RQ

AP is that of Cellpose and of the Data Science Bowl 2018. It is not the average precision of COCO,
which is an area under a curve over confidences.

Ignored pixels are void, as in Kirillov et al.: they count in no IoU, and a predicted object with
more than half of its pixels in them is left out unless it matches at 0.5. If there are no objects
on either side, AP, PQ, SQ and RQ are 1; if there are objects but no match, SQ is undefined.

With more than two classes, each class has objects. If the data set has instance ids, class 0 is
background without objects, and is left out. If a class is the border of the objects of class 1
(`Task.border`), there are only objects of class 1: the predicted ones are those of class 1, grown
into the pixels predicted as border.

Sources: Kirillov et al. 2019, https://doi.org/10.1109/CVPR.2019.00963; Caicedo et al. 2019,
https://doi.org/10.1038/s41592-019-0612-7; Stringer et al. 2021,
https://doi.org/10.1038/s41592-020-01018-x (Cellpose).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from unet_jax.metrics.partition import find_objects, grow, shared_pixels, without_small
from unet_jax.metrics.registry import Masks, Metric, register

SETTINGS = ("objects", "min_object_pixels")
STEPS = range(10, 20)  # the thresholds 0.5, 0.55, ..., 0.95, in twentieths


@dataclasses.dataclass(frozen=True)
class Matches:
    """The objects of a label and of a prediction, and the pairs with an IoU above 0.5."""

    labelled: int  # number of labelled objects
    predicted: int  # number of predicted objects, without those that are left out as void
    # int64 [pairs, 2]: the pixels of intersection and union. No object is in two pairs.
    overlaps: np.ndarray

    def average_precision(self, twentieths: int) -> float:
        """Returns AP at the threshold `twentieths` / 20, which is at least 0.5."""
        # In integers, so that an IoU of exactly 0.55 is not above 0.55.
        positive = int((20 * self.overlaps[:, 0] > twentieths * self.overlaps[:, 1]).sum())
        total = self.labelled + self.predicted - positive
        return positive / total if total else 1.0

    @property
    def recognition(self) -> float:
        """RQ, the F1 score of the objects."""
        total = self.labelled + self.predicted
        return 2 * len(self.overlaps) / total if total else 1.0

    @property
    def segmentation(self) -> float:
        """SQ, the mean IoU of the matches."""
        if not len(self.overlaps):
            return math.nan if self.labelled or self.predicted else 1.0
        return float((self.overlaps[:, 0] / self.overlaps[:, 1]).mean())

    @property
    def panoptic(self) -> float:
        """PQ, the product of SQ and RQ; 0 without a match."""
        return self.recognition * self.segmentation if self.recognition else 0.0


def match(labelled: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> Matches:
    """Matches predicted and labelled objects.

    Args:
      labelled: objects 1 ... L, integers [H, W]; 0 is none, and so is every ignored pixel.
      predicted: objects 1 ... P, integers [H, W]; 0 is none. Pixels may be ignored.
      counted: bool [H, W], False at ignored pixels.
    """
    rows, columns, shared = shared_pixels(labelled, predicted)
    of_label, area = (np.bincount(x, shared).astype(np.int64) for x in (rows, columns))
    void = np.bincount(predicted[~counted], minlength=len(area))
    seen = area - void
    both = (rows > 0) & (columns > 0)
    rows, columns, shared = rows[both], columns[both], shared[both]
    union = of_label[rows] + seen[columns] - shared
    found = 2 * shared > union
    exists = 2 * seen >= area  # at most half of the object is void
    exists[columns[found]] = True
    overlaps = np.stack([shared, union], axis=1)[found]
    return Matches(len(of_label) - 1, int(exists[1:].sum()), overlaps)


@functools.lru_cache(maxsize=1)
def _matches(masks: Masks) -> Matches | None:
    """Matches the objects of a class once for all metrics; None if the class has no objects."""
    pixels, task = masks.pixels, masks.task
    instances = None if pixels is None else pixels.instances
    if masks.index not in ((1,) if task.border else range(instances is not None, task.classes)):
        return None
    if instances is None:
        labelled = find_objects(masks.label, task.objects)
    elif task.border:
        labelled = np.where(masks.counted, instances, 0)
    else:
        labelled = np.where(masks.label, instances, 0)
        others = find_objects(masks.label & (labelled == 0), task.objects)
        labelled = np.where(others > 0, others + labelled.max(), labelled)
    everywhere = masks.prediction if pixels is None else pixels.prediction == masks.index
    predicted = find_objects(everywhere, task.objects)
    if task.border and pixels is not None:
        predicted = grow(predicted, pixels.prediction == task.border)
    small = task.min_object_pixels
    return match(without_small(labelled, small), without_small(predicted, small), masks.counted)


def _of(value: Callable[[Matches], float]) -> Callable[[Masks], float]:
    def compute(masks: Masks) -> float:
        found = _matches(masks)
        return math.nan if found is None else value(found)

    return compute


def _mean_precision(found: Matches) -> float:
    return sum(map(found.average_precision, STEPS)) / len(STEPS)


for _key, _label, _help, _value, _prominent in (
    (
        "ap50",
        "AP at IoU 0.5",
        "TP / (TP + FP + FN) of the objects, matched at IoU > 0.5, as in Cellpose and the Data "
        "Science Bowl 2018; not COCO's.",
        lambda found: found.average_precision(10),
        True,
    ),
    (
        "ap75",
        "AP at IoU 0.75",
        "TP / (TP + FP + FN) of the objects, matched at IoU > 0.75; not COCO's.",
        lambda found: found.average_precision(15),
        False,
    ),
    (
        "ap",
        "AP",
        "the mean of TP / (TP + FP + FN) over the IoU thresholds 0.5, 0.55, ..., 0.95, as in the "
        "Data Science Bowl 2018; not COCO's.",
        _mean_precision,
        True,
    ),
    (
        "pq",
        "PQ",
        "panoptic quality of the image's objects, SQ times RQ (Kirillov et al. 2019).",
        lambda found: found.panoptic,
        True,
    ),
    (
        "sq",
        "SQ",
        "segmentation quality: the mean IoU of the objects matched at IoU > 0.5.",
        lambda found: found.segmentation,
        False,
    ),
    (
        "rq",
        "RQ",
        "recognition quality: the F1 score of the objects, matched at IoU > 0.5.",
        lambda found: found.recognition,
        False,
    ),
):
    register(
        Metric(
            _key,
            _label,
            _help,
            group="objects",
            of_masks=_of(_value),
            settings=SETTINGS,
            prominent=_prominent,
            order=70,
        )
    )
register(
    Metric(
        "count_error",
        "count error",
        "|predicted - labelled| number of objects.",
        better="lower",
        unit="objects",
        group="objects",
        of_masks=_of(lambda found: float(abs(found.predicted - found.labelled))),
        settings=SETTINGS,
        order=70,
    )
)
