"""The registry of annotation formats, and what their readers return."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from unet_jax.core.registry import Registry
from unet_jax.data.annotations.areas import Patch, Size

BACKGROUND = "background"  # the class of pixels that belong to no object
RECORD = "prepared.json"  # in the output folder of the command: what it was made from


@dataclasses.dataclass(frozen=True)
class Shape:
    """An annotated area."""

    label: str  # name of its class; `BACKGROUND` and `VOID` (ignored) have their own mask values
    draw: Callable[[Size], Patch]  # its pixels in an image of (height, width)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An image and its annotated areas."""

    source: pathlib.Path  # the file with the annotations
    name: str  # name of the image and the mask to write, without suffix
    image: pathlib.Path | Callable[[], bytes]  # the image file, or what reads an embedded one
    size: Size | None  # (height, width) that the annotations state, if they do
    shapes: Sequence[Shape]  # where two overlap, the later one counts


@dataclasses.dataclass
class Annotations:
    """All annotations of a data set.

    A file that cannot be converted is a fault, and does not stop the others.
    """

    images: list[Labelled] = dataclasses.field(default_factory=list)
    classes: Sequence[str] | None = None  # in the order of their ids; None: sorted by name
    numbered: bool = False  # whether masks number the areas, all of one class, from 1
    faults: list[str] = dataclasses.field(default_factory=list)  # a line for each
    notes: dict[str, list[object]] = dataclasses.field(default_factory=dict)  # where each applies

    def note(self, text: str, where: object) -> None:
        """Notes something that the user should know about a file."""
        self.notes.setdefault(text, []).append(where)

    def described_notes(self) -> list[str]:
        """Returns a line for each note, with the number of cases and the first of them."""
        return [f"{text} ({len(all_)}, first {all_[0]})" for text, all_ in self.notes.items()]


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks to convert."""

    root: pathlib.Path  # a folder or, for formats with a single file, that file
    images: pathlib.Path | None = None  # folder of the images, if it is not in the usual place
    crowd: str = "class"  # COCO: whether crowds are of their class or `VOID`

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the annotations."""
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def image_folders(self) -> list[pathlib.Path]:
        """The folders in which images are looked for."""
        return [self.images] if self.images else [self.folder, self.folder / "images"]


@dataclasses.dataclass(frozen=True)
class Format:
    """A registered annotation format."""

    read: Callable[[Request], Annotations]
    options: Sequence[str] = ()  # the optional arguments of the command that it uses


# By the value of `--from`.
FORMATS: Registry[Format] = Registry("unet_jax.data.annotations")


def class_name(label: object) -> str:
    """Returns the name of a class as `classes.txt` can have it.

    Raises:
      ValueError: the label is not a text, is empty or begins with a punctuation mark.
    """
    name = " ".join(label.split()) if isinstance(label, str) else ""
    if not name or name[0] in ":=,;":
        raise ValueError(f"{label!r} cannot be the name of a class")
    return name
