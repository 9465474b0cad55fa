"""Topology of masks: centrelines (clDice), and the numbers of components and of holes.

A gap of one pixel in a vessel hardly changes Dice, but cuts the vessel. With S the skeleton of a
mask and M the mask,

    clDice = 2 P R / (P + R),  P = |S_prediction & M_label| / |S_prediction|,
                               R = |S_label & M_prediction| / |S_label|

P is the topology precision and R the topology sensitivity. The skeleton is that of the authors'
code: Zhang's thinning as in scikit-image. The Betti numbers of a mask are the number of its
components (b0) and of its holes (b1); their errors are |b_prediction - b_label|. Pixels of the mask
that touch at an edge or a corner are connected (8-connectivity), pixels of the background only at
an edge (4-connectivity). A hole is a component of the background that does not reach the edge of
the image.

Two empty masks agree (clDice 1, errors 0); if one is empty, clDice is 0. Ignored pixels are
background in both masks: an ignored area that cuts a component cuts it in label and prediction
alike.

Sources: Shit et al. 2021, https://doi.org/10.1109/CVPR46437.2021.01629, and their code,
https://github.com/jocpae/clDice; Hu et al. 2019, https://arxiv.org/abs/1906.05404 (Betti errors).
"""

import functools

import cv2
import numpy as np

from unet_jax.metrics.partition import as_uint8
from unet_jax.metrics.registry import Masks, Metric, register


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Thins a mask to lines of one pixel.

    The time grows with the area around the mask times its largest thickness, because thinning
    removes one layer of pixels at a time.

    Args:
      mask: bool [H, W].

    Returns:
      bool [H, W]; no component of the mask is lost.
    """
    from skimage.morphology import skeletonize  # its import takes half a second

    thin = np.zeros(mask.shape, bool)
    x, y, width, height = cv2.boundingRect(as_uint8(mask))
    if width:
        box = np.s_[y : y + height, x : x + width]
        thin[box] = skeletonize(mask[box])
    return thin


def cldice(masks: Masks) -> float:
    """Computes clDice; see the docstring of this module."""
    label, prediction = masks.label, masks.prediction
    if not label.any() or not prediction.any():
        return float(label.any() == prediction.any())
    precision = float(label[skeleton(prediction)].mean())
    sensitivity = float(prediction[masks.of_label(skeleton)].mean())
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def betti_numbers(mask: np.ndarray) -> tuple[int, int]:
    """Counts the components and the holes of a mask.

    Args:
      mask: bool [H, W].

    Returns:
      The number of 8-connected components, and that of holes.
    """
    components = cv2.connectedComponents(as_uint8(mask), connectivity=8)[0] - 1
    outside = np.pad(~mask, 1, constant_values=True)  # connects the background around the image
    return components, cv2.connectedComponents(as_uint8(outside), connectivity=4)[0] - 2


@functools.lru_cache(maxsize=1)
def _betti_errors(masks: Masks) -> tuple[float, float]:
    """Computes both errors once for the two metrics of a class."""
    labelled, predicted = masks.of_label(betti_numbers), betti_numbers(masks.prediction)
    components, holes = np.abs(np.subtract(labelled, predicted))
    return float(components), float(holes)


register(
    Metric(
        "cldice",
        "clDice",
        "how much of each centreline lies in the other mask (Shit et al. 2021); gaps lower it.",
        group="topology",
        of_masks=cldice,
        order=60,
    )
)
register(
    Metric(
        "betti0_error",
        "Betti-0 error",
        "|predicted - labelled| number of connected components, counted with 8-connectivity.",
        better="lower",
        unit="components",
        group="topology",
        of_masks=lambda masks: _betti_errors(masks)[0],
        order=60,
    )
)
register(
    Metric(
        "betti1_error",
        "Betti-1 error",
        "|predicted - labelled| number of holes, that is, of closed loops.",
        better="lower",
        unit="holes",
        group="topology",
        of_masks=lambda masks: _betti_errors(masks)[1],
        order=60,
    )
)
