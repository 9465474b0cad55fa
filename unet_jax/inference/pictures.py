"""Pictures of a prediction: each image with its mask."""

import abc
import contextlib
import errno
import pathlib
from collections.abc import Iterator
from typing import ClassVar

from PIL import Image

from unet_jax.inference.output_file import Extra, remove
from unet_jax.inference.predicted_image import PredictedImage


class Pictures(Extra, abc.ABC):
    """Pictures of the images: a file, or for a stack a folder with a picture for each image.

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      images: number of images in the input file.

    Attributes:
      place: where they are in the output folder.
      suffix: suffix of a picture's name.
    """

    place: ClassVar[str]
    suffix: ClassVar[str]
    needs_pixels = True

    def __init__(self, folder: pathlib.Path, name: str, images: int):
        is_stack = images > 1
        path = folder / self.place / (name if is_stack else name + self.suffix)
        super().__init__(path, is_stack)
        self._names = [f"{number:04d}{self.suffix}" for number in range(images)]

    @property
    def pictures(self) -> list[pathlib.Path]:
        """The final path of each picture."""
        return [self.path / name for name in self._names] if self.is_folder else [self.path]

    @abc.abstractmethod
    def save(self, image: PredictedImage, path: pathlib.Path) -> None:
        """Writes the picture of an image."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        if self.is_folder:
            self.unfinished.mkdir(exist_ok=True)
        self._waiting = iter(self._names)
        yield

    def end_image(self, image: PredictedImage) -> None:
        name = next(self._waiting)
        self.save(image, self.unfinished / name if self.is_folder else self.unfinished)

    def remove_previous(self) -> None:
        if not self.is_folder:
            return
        if self.path.is_dir() and not {x.name for x in self.path.iterdir()} <= {*self._names}:
            raise OSError(errno.ENOTEMPTY, "has other files too", str(self.path))
        remove(self.path)


class Overlays(Pictures):
    """The masks on the images: `overlays/NAME.png`, or of a stack `overlays/NAME/0000.png` etc."""

    place = "overlays"
    suffix = ".png"

    def save(self, image: PredictedImage, path: pathlib.Path) -> None:
        Image.fromarray(image.overlay).save(path, format="PNG")
