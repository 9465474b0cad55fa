"""Masks that number objects (instance ids): their classes, their ids, and a class for borders."""

import dataclasses
import functools

import cv2
import numpy as np

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.files.pairs import ToLabel
from unet_jax.data.labels.found import Found, Meaning, to_label

BORDER = "border"  # name of the class of `data.object_border`
OBJECT = 1  # the class of the objects that have a border


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is read from the masks of a data set; the functions are picklable."""

    classes: tuple[str, ...]
    to_label: ToLabel  # maps a mask to classes, uint8 [H, W]
    to_instances: ToLabel | None  # maps a mask to ids of objects, int32 [H, W], if it has them
    border: int  # the class that is the border of the objects; 0: there is none
    notes: tuple[str, ...]


def labels_of(found: Found, meaning: Meaning, object_border: int) -> Labels:
    """Returns how the classes and the ids of objects are read from masks.

    With a border, pixels of an object that are at most `object_border` pixels from a pixel of
    another value, along an axis or diagonally, become a third class. The edge of the image is no
    border. An object without any other pixels stays as it is.

    Args:
      found: the values of all masks.
      meaning: their classes, of which some values may be instance ids.
      object_border: width of the border in pixels; 0: no such class.

    Raises:
      UserError: there shall be a border, but the masks do not number the objects of one class.
    """
    label = to_label(found, meaning)
    if not meaning.instances:
        if object_border:
            raise UserError(
                f"data.object_border={object_border}: the masks in {found.folder} do not number "
                f"objects; set it to 0, or write the line '* object' in {found.classes_file}"
            )
        return Labels(meaning.classes, label, None, 0, ())
    values = np.array(sorted(meaning.instances), np.int64)
    instances = functools.partial(_instances, values)
    if not object_border:
        return Labels(meaning.classes, label, instances, 0, ())
    if len(meaning.classes) != 2 or meaning.ids[int(values[0])] != OBJECT:
        raise UserError(
            f"data.object_border={object_border}: needs two classes, background and objects, but "
            f"the masks in {found.folder} have {', '.join(meaning.classes)}; set it to 0"
        )
    border = OBJECT + 1
    bordered = functools.partial(_with_border, label, instances, object_border, border)
    note = (
        f"pixels up to {object_border} from the edge of their object are the class {BORDER} "
        f"(data.object_border)"
    )
    return Labels((*meaning.classes, BORDER), bordered, instances, border, (note,))


def _instances(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the position, from 1, of each pixel's value in `values`; 0 if it is not there."""
    mask = mask[..., 0] if mask.ndim == 3 else mask
    places = np.minimum(np.searchsorted(values, mask), len(values) - 1)
    return np.where(values[places] == mask, places + 1, 0).astype(np.int32)


def _with_border(
    to_classes: ToLabel, instances: ToLabel, pixels: int, border: int, mask: np.ndarray
) -> np.ndarray:
    label, ids = to_classes(mask), instances(mask)
    values = np.where(label == IGNORED, -1, ids).astype(np.float32)  # OpenCV filters no int32
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    edge = (ids > 0) & (cv2.dilate(values, square) != cv2.erode(values, square))
    has_interior = np.bincount(ids[~edge], minlength=int(ids.max()) + 1) > 0
    return np.where(edge & has_interior[ids], np.uint8(border), label)
