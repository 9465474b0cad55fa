"""The partition of masks into objects."""

from typing import Literal

import cv2
import numpy as np

NECK = 0.75  # two parts are one object if the neck is at least this share of the narrower one


def find_objects(mask: np.ndarray, rule: Literal["components", "watershed"]) -> np.ndarray:
    """Divides a mask into objects.

    Args:
      mask: bool [H, W].
      rule: `components`: pixels that touch at an edge or a corner are of one object.
        `watershed`: components are also divided at their necks. A watershed of the distance to the
        background divides each component into parts, one for each maximum of the distance.
        Neighbouring parts are one object unless the neck between them is narrower than three
        quarters of the narrower part. Widths are distances to the background: that of a part is
        its largest, that of the neck the largest at which the two parts meet.

    Returns:
      int32 [H, W]: objects 1 ... N, and 0 for none.
    """
    _, components = cv2.connectedComponents(as_uint8(mask), connectivity=8)
    return _divided(mask, components) if rule == "watershed" else components


def grow(objects: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Adds border pixels to objects: each joins the one that reaches it in the fewest steps.

    Steps lead from a pixel to one of its four neighbours and stay in the border. Border pixels that
    no object reaches are of none.

    Args:
      objects: integers [H, W]; 0 is none.
      border: bool [H, W].

    Returns:
      The larger objects, integers [H, W].
    """
    from skimage.segmentation import watershed  # its import takes half a second

    return watershed(np.zeros(border.shape, np.uint8), objects, mask=border | (objects > 0))


def without_small(objects: np.ndarray, pixels: int) -> np.ndarray:
    """Leaves out small objects and closes the gaps in the numbers of the others.

    Args:
      objects: integers [H, W], at least 0; 0 is none.
      pixels: the least number of pixels of an object; 0 and 1 leave out none.

    Returns:
      int32 [H, W]: objects 1 ... N, and 0 for none.
    """
    area = np.bincount(objects.ravel())
    kept = area >= max(pixels, 1)
    kept[0] = False
    if kept[1:].all():
        return objects.astype(np.int32, copy=False)
    return (np.cumsum(kept, dtype=np.int32) * kept).astype(np.int32)[objects]


def shared_pixels(
    labelled: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts the pixels that a labelled and a predicted object share.

    Args:
      labelled: objects, integers of any shape, at least 0.
      predicted: objects, integers of the same shape, at least 0.

    Returns:
      The labelled object, the predicted object and the number of pixels of each pair that shares
      some, including those with 0, each int64 [pairs], sorted by labelled, then by predicted.
    """
    columns = int(predicted.max(initial=0)) + 1
    keys = (labelled.astype(np.int64) * columns + predicted).ravel()
    if (int(labelled.max(initial=0)) + 1) * columns <= 4 * keys.size:
        table = np.bincount(keys)
        found = np.flatnonzero(table)
        counts = table[found]
    else:  # the table of all pairs would be far larger than the images
        found, counts = np.unique(keys, return_counts=True)
    return *np.divmod(found, columns), counts


def _divided(mask: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Divides components at their necks; see `find_objects`."""
    from skimage.segmentation import watershed  # its import takes half a second

    # The outside of the image is no background: objects do not become narrow at its edge.
    distance = cv2.distanceTransform(as_uint8(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = np.minimum(distance, sum(mask.shape))  # without background it is huge
    highest = mask & (distance == cv2.dilate(distance, np.ones((3, 3), np.uint8)))
    _, seeds = cv2.connectedComponents(as_uint8(highest), connectivity=8)
    parts = watershed(-distance, seeds, connectivity=2, mask=mask)
    peaks = np.zeros(parts.max() + 1)
    np.maximum.at(peaks, parts[highest], distance[highest])
    root = np.arange(len(peaks))

    def find(part: int) -> int:
        while root[part] != part:
            part = root[part]
        return part

    for width, one, other in _necks(parts, distance):
        low, high = sorted((find(one), find(other)), key=peaks.__getitem__)
        if low != high and width >= NECK * peaks[low]:
            root[low] = high
    merged = np.array([find(part) for part in range(len(root))])
    return without_small(merged[parts], 0)


def _necks(parts: np.ndarray, distance: np.ndarray) -> list[tuple[float, int, int]]:
    """Returns width, part and part of each pair of neighbouring parts, the widest neck first."""
    found = []
    for here, there in (
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        one, other = parts[here], parts[there]
        meet = (one != other) & (one > 0) & (other > 0)
        width = np.minimum(distance[here][meet], distance[there][meet])
        found.append(np.stack([width, one[meet], other[meet]]))
    width, one, other = np.concatenate(found, axis=1)
    order = np.argsort(-width, kind="stable")
    count = int(parts.max()) + 1
    pairs = (np.minimum(one, other) * count + np.maximum(one, other)).astype(np.int64)[order]
    first = np.sort(np.unique(pairs, return_index=True)[1])
    columns = width[order][first], *np.divmod(pairs[first], count)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def as_uint8(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool [H, W], as 0 and 1 in the type that OpenCV needs."""
    return np.ascontiguousarray(mask).view(np.uint8)
