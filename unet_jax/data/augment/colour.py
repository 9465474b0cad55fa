"""Photometric transforms of images: float32 [H, W, C], scaled so that their range is [0, 1].

The range is that of the stored values which become the ends of the network's input range, by
default that of the type. A result may lie outside [0, 1]: `apply` clips and rounds once, after the
last transform.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.data.resize import round_to

Colour = Callable[[np.ndarray], np.ndarray]
TYPE_RANGE = Intensities()
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green, blue: ITU-R BT.601


def apply(
    image: np.ndarray,
    colours: Sequence[Colour],
    dtype: np.dtype,
    intensities: Intensities = TYPE_RANGE,
) -> np.ndarray:
    """Applies the transforms in order, then clips and rounds the image to `dtype`.

    Args:
      image: [H, W, C], of any type, with values in the range of `dtype`.
      colours: functions of a float32 image in [0, 1].
      dtype: type of the result; it is rounded to integers if this is an integer type.
      intensities: gives the range that is scaled to [0, 1].

    Returns:
      The image [H, W, C] as `dtype`; the input itself if there is nothing to do.
    """
    if image.dtype == dtype and not colours:
        return image
    if intensities.limits or dtype.kind != "u":
        if colours:
            low, high = intensities.ends(dtype)
            image = intensities.share(image, dtype)
            for colour in colours:
                image = colour(image)
            image = np.clip(image, 0, 1) * (high - low) + low
        return round_to(image, dtype)
    top = np.iinfo(dtype).max
    if colours:
        image = image * np.float32(1 / top)
        for colour in colours:
            image = colour(image)
        image = image * top
    image = np.clip(image, 0, top)
    return np.rint(image, out=image).astype(dtype)


def brighten(image: np.ndarray, amount: float) -> np.ndarray:
    """Adds `amount`, a share of the range."""
    return image + amount


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the differences from the image's mean, which is over all channels."""
    return factor * image + (1 - factor) * float(image.mean())


def gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    return np.maximum(image, 0) ** exponent


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Moves hues by `turn` of the colour circle, from red towards green.

    Raises:
      UserError: the image is not RGB.
    """
    _check_rgb(image, "hue")
    hsv = cv2.cvtColor(np.maximum(image, 0), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the differences from each pixel's grey value.

    Raises:
      UserError: the image is not RGB.
    """
    _check_rgb(image, "saturation")
    matrix = factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))
    return cv2.transform(image, matrix.astype(np.float32))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Convolves with a Gaussian of standard deviation `sigma`, pixels."""
    if not sigma:
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(image.shape)


def noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Adds independent Gaussian noise of standard deviation `sigma`, a share of the range."""
    drawn = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    return image + sigma * drawn


def _check_rgb(image: np.ndarray, name: str) -> None:
    if image.shape[-1] != 3:
        raise UserError(
            f"data.augment: {name} is for RGB images, but these have {image.shape[-1]} "
            f"channel{'s' * (image.shape[-1] != 1)}; leave it out"
        )
