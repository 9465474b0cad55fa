"""Images with their labels, predictions and errors, as arrays of colours."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy
from PIL import Image

from unet_jax import IGNORED, is_binary
from unet_jax.reporting.colours import BLUE, SKY, VERMILION, YELLOW, palette, rgb

FALSE_POSITIVE, FALSE_NEGATIVE, OUTLINE = VERMILION, BLUE, YELLOW
HATCH = ("#6E6E6E", "#B4B4B4")  # colours of the stripes that mark ignored pixels


@dataclasses.dataclass(frozen=True)
class Overlay:
    """An image to be drawn with its label and prediction."""

    name: str
    title: str  # e.g. 'best: slice-07, Dice 0.961'
    image: np.ndarray  # [H, W, C], drawn as `displayed` says
    label: np.ndarray  # uint8 [H, W], 255 = ignored
    prediction: np.ndarray  # uint8 [H, W], class ids


def best_median_worst(values: Sequence[float]) -> dict[int, str]:
    """Returns the positions of the highest, the middle and the lowest value, and their names.

    Args:
      values: a score of each image, higher is better; NaN is undefined.

    Returns:
      At most three positions, the best first; `worst` or `best` if a value is several of them.
    """
    ranked = [i for i in np.argsort(values)[::-1].tolist() if not np.isnan(values[i])]
    places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}
    return {ranked[place]: places[place] for place in sorted(places) if ranked}


def check_sizes(overlay: Overlay) -> None:
    """Raises ValueError if the arrays of an overlay differ in size."""
    arrays = {name: getattr(overlay, name) for name in ("image", "label", "prediction")}
    sizes = {name: array.shape[:2] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the arrays of the overlay '{overlay.name}' differ in size: {sizes}")


def panels(overlay: Overlay, classes: Sequence[str], longest: int) -> dict[str, np.ndarray]:
    """Returns the panels of an overlay by their captions, each uint8 [H, W, 3].

    With two classes: the image, the second class's outline on it, and the errors in that class.
    With more: image, label and prediction in fixed colours, and all wrong pixels. Above `longest`
    pixels a side, class ids are decimated; image and errors are averaged to keep thin errors.
    """
    image, label, prediction = overlay.image, overlay.label, overlay.prediction
    step = math.ceil(max(label.shape) / longest)
    small = _averaged(displayed(image), step)
    if is_binary(len(classes)):
        errors = error_colours(image, label, prediction, positive=1)
        mask = label[::step, ::step] == 1
        edge = scipy.ndimage.maximum_filter(mask, 3) != scipy.ndimage.minimum_filter(mask, 3)
        middle = {f"label: outline of {classes[1]}": np.where(edge[..., None], rgb(OUTLINE), small)}
        last = f"errors in {classes[1]}"
    else:
        wrong = (label != prediction).astype(np.uint8)
        errors = error_colours(image, np.where(label == IGNORED, label, 0), wrong, positive=1)
        middle = {
            "label": class_colours(label[::step, ::step]),
            "prediction": class_colours(prediction[::step, ::step]),
        }
        last = "wrong pixels"
    return {
        "image": small,
        **middle,
        last: _averaged(errors, step),
    }


def legend(overlays: Sequence[Overlay], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Maps the meanings of the overlays' colours to the colours; two colours are a hatching."""
    present = {int(i) for o in overlays for ids in (o.label, o.prediction) for i in np.unique(ids)}
    meanings: dict[str, tuple[str, ...]] = {}
    if is_binary(len(classes)) and overlays:
        meanings[f"outline of {classes[1]} in the label"] = (OUTLINE,)
        meanings[f"{classes[0]} taken for {classes[1]} (FP)"] = (FALSE_POSITIVE,)
        meanings[f"{classes[1]} missed (FN)"] = (FALSE_NEGATIVE,)
    elif overlays:
        for i in sorted(present - {IGNORED}):
            meanings[classes[i]] = (f"#{bytes(palette()[i]).hex()}",)
    if IGNORED in present:
        meanings["ignored, counted nowhere"] = HATCH
    return meanings


def error_colours(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, positive: int
) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the image in light grey, its errors in class `positive` coloured.

    `image` is [H, W, C], drawn as `displayed` says, `label` uint8 [H, W] with 255 = ignored,
    `prediction` uint8 [H, W]. False positives are vermilion, false negatives blue and correct
    pixels grey; ignored pixels are hatched in two greys.
    """
    counted, wanted, found = label != IGNORED, label == positive, prediction == positive
    luminance = displayed(image) @ np.array([0.299, 0.587, 0.114])
    # Blending with white makes thin errors visible in dark images too.
    shown = np.repeat(127.5 + luminance[..., None] / 2, 3, axis=2)
    for wrong, colour in ((found & ~wanted, FALSE_POSITIVE), (wanted & ~found, FALSE_NEGATIVE)):
        shown[wrong] = 0.15 * shown[wrong] + 0.85 * rgb(colour)
    return hatched(np.rint(shown).astype(np.uint8), ~counted)


def class_colours(ids: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the class ids (uint8 [H, W], 255 = ignored) in fixed colours."""
    return hatched(palette()[ids], ids == IGNORED)


def painted(image: np.ndarray, ids: np.ndarray, classes: int) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the image with the outlines of all classes but the first.

    `image` is [H, W, C], drawn as `displayed` says, `ids` uint8 [H, W]. The area inside an outline
    is tinted in the colour of its class.
    """
    edge, colours = np.zeros(ids.shape, bool), palette()
    if is_binary(classes):
        colours[1] = rgb(SKY)  # stands out from grey and from stained tissue
    for differs, here in ((ids[1:] != ids[:-1], edge), ((ids[:, 1:] != ids[:, :-1]).T, edge.T)):
        here[1:] |= differs
        here[:-1] |= differs
    opacity = np.where(ids == 0, 0, np.where(edge, 1, 0.2))[..., None]
    return np.rint(displayed(image) * (1 - opacity) + colours[ids] * opacity).astype(np.uint8)


def example_strip(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes: int
) -> np.ndarray:
    """Returns uint8 [H, 2W, 3]: the image beside its errors, decimated to 256 pixels a side.

    With more than two classes, the predicted classes in fixed colours replace the errors. The
    arrays are as in `Overlay`.
    """
    step = math.ceil(max(label.shape) / 256)
    image, label, prediction = (array[::step, ::step] for array in (image, label, prediction))
    if is_binary(classes):
        shown = error_colours(image, label, prediction, positive=1)
    else:
        shown = class_colours(prediction)
    return np.concatenate([displayed(image), shown], axis=1)


def displayed(image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, C] of any type as colours, uint8 [H, W, 3].

    One channel is grey. Of two channels the first is green and the second magenta, so that what
    they share is grey. Of three or more channels the first three are red, green and blue. Types
    other than uint8 are scaled from the own range of the channels that are shown.
    """
    image = image[..., (1, 0, 1)] if image.shape[2] == 2 else image[..., :3]
    if image.dtype != np.uint8:
        values = image.astype(np.float64) - image.min()
        image = np.rint(values * (255 / (values.max() or 1))).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def hatched(shown: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(where.shape)
    stripe = max(1, max(where.shape) // 64)
    stripes = np.stack([rgb(colour) for colour in HATCH])[(rows + columns) // stripe % 2]
    return np.where(where[..., None], stripes, shown)


def _averaged(shown: np.ndarray, step: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(shown)).reduce(step))
