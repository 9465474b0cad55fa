"""Finds out how the pages of a TIFF make images: one page each, or one page a channel.

Metadata of OME, of ImageJ and of tifffile name the axes along which the pages run. Pages are
channels only where such metadata say so. tifffile writes an array [H, W, C] without further options
as a page [W, C] a row; that is recognised too.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from unet_jax.core.names import printable

AXES = {
    "C": "channels (C)",
    "Z": "slices (Z)",
    "T": "time points (T)",
    "I": "pages of unknown meaning",
}
UNKNOWN = "I"
MAX_INTERLEAVED = 16  # largest C of an array [H, W, C] whose axes tifffile's metadata do not name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a TIFF."""

    axes: str  # of its stored planes, the outermost first; "" for one plane
    sizes: tuple[int, ...]  # length of each axis
    images: tuple[tuple[int, ...], ...]  # numbers of the planes of each image, a plane a channel
    names: tuple[str, ...] = ()  # names of the channels, if the file has any
    is_virtual: bool = False  # whether one page stands for planes that follow each other
    shape: tuple[int, int, int] | None = None  # [H, W, C] if each page is a row of the image

    def describe(self) -> str:
        """Returns the axes for a message, such as '3 slices (Z) of 4 channels (C)'."""
        counts = zip(self.axes, self.sizes, strict=True)
        return " of ".join(f"{n} {AXES.get(axis, f'along the axis {axis}')}" for axis, n in counts)


@dataclasses.dataclass(frozen=True)
class _Declared:
    """The axes that metadata declare for the planes of a file, the outermost first."""

    axes: str
    sizes: tuple[int, ...]
    names: tuple[str, ...] = ()
    pages: tuple[int, ...] = ()  # the page of each plane; () if they are in order
    shape: tuple[int, int, int] | None = None

    @property
    def count(self) -> int:
        return math.prod(self.sizes)


def find_layout(file: tifffile.TiffFile) -> Layout:
    """Returns the images of an open TIFF; reads metadata only, and no other file.

    Raises:
      ValueError: the metadata declare more planes than the file has.
    """
    pages, page = len(file.pages), file.pages.first
    declared = _declared(file, page, pages)
    is_virtual = False
    if declared and declared.count > 1 and pages == 1:
        # ImageJ writes a stack of more than 4 GiB as one page whose data the other planes follow.
        end = page.dataoffsets[0] + declared.count * page.nbytes
        if not (page.is_contiguous and page.nbytes and end <= file.filehandle.size):
            raise ValueError(f"it lacks some of the {declared.count} images that it declares")
        is_virtual = True
    planes = declared.count if declared and is_virtual else pages
    if declared is None or declared.count != planes:
        declared = _Declared(UNKNOWN, (pages,)) if pages > 1 else _Declared("", ())
    if declared.shape:
        return Layout("", (), ((0,),), declared.names, shape=declared.shape)
    places = np.arange(planes).reshape(declared.sizes)
    if declared.pages:
        places = np.array(declared.pages)[places]
    if "C" in declared.axes:
        places = np.moveaxis(places, declared.axes.index("C"), -1)
    else:
        places = places[..., None]
    images = tuple(map(tuple, places.reshape(-1, places.shape[-1]).tolist()))
    long = [(axis, n) for axis, n in zip(declared.axes, declared.sizes, strict=True) if n > 1]
    names = _checked_names(declared.names)
    axes, sizes = "".join(axis for axis, _ in long), tuple(n for _, n in long)
    return Layout(axes, sizes, images, names, is_virtual)


def _declared(file: tifffile.TiffFile, page: Any, pages: int) -> _Declared | None:
    """Returns the axes that a file declares; None if it declares none."""
    try:
        if page.is_ome:
            return _ome(page, pages, pathlib.Path(file.filehandle.name).name)
        if page.is_imagej:
            return _imagej(file.imagej_metadata or {}, page, pages)
        if page.is_shaped:
            return _shaped(json.loads(page.shaped_description), page)
    except (AttributeError, ElementTree.ParseError, KeyError, TypeError, ValueError):
        pass  # malformed metadata declare nothing
    return None


def _imagej(metadata: dict[str, Any], page: Any, pages: int) -> _Declared | None:
    lengths = {
        axis: int(metadata.get(name, 1))
        for axis, name in (("C", "channels"), ("Z", "slices"), ("T", "frames"))
    }
    if lengths["C"] == page.samplesperpixel:
        lengths["C"] = 1  # the samples of each page
    order = str(metadata.get("order", "czt")).upper()
    axes = order[::-1] if sorted(order) == ["C", "T", "Z"] else "TZC"
    sizes = tuple(lengths[axis] for axis in axes)
    images = int(metadata.get("images", 1))
    if math.prod(sizes) == 1 < images and pages in (1, images):
        return _Declared(UNKNOWN, (images,))  # a stack of unknown axis
    if min(sizes) < 1:
        return None
    labels = metadata.get("Labels") or ()
    return _Declared(axes, sizes, tuple(labels) if len(labels) == math.prod(sizes) else ())


def _shaped(metadata: dict[str, Any], page: Any) -> _Declared | None:
    """Returns the axes of an array that tifffile wrote."""
    shape, axes = tuple(map(int, metadata["shape"])), str(metadata.get("axes", ""))
    if min(shape, default=0) < 1:
        return None
    axes = axes if len(axes) == len(shape) else ""
    interleaved = len(shape) == 3 and page.shape == shape[1:]
    if interleaved and axes in ("YXC", "YXS"):
        return _Declared("Y", shape[:1], shape=shape)
    if interleaved and not axes and shape[2] <= MAX_INTERLEAVED < min(shape[:2]):
        return _Declared("Y", shape[:1], shape=shape)
    own = len(page.shape)
    if shape[len(shape) - own :] != page.shape:
        return None
    sizes = shape[: len(shape) - own]
    if not axes:
        return _Declared(UNKNOWN, (math.prod(sizes),)) if math.prod(sizes) > 1 else None
    return _Declared(axes[: len(sizes)], sizes)


def _ome(page: Any, pages: int, file_name: str) -> _Declared | None:
    """Returns the axes of an OME-TIFF; None if it describes several images or other files."""
    root = ElementTree.fromstring(page.description)
    images = [element for element in root if _tag(element) == "Image"]
    if len(images) != 1:
        return None
    (pixels,) = (element for element in images[0] if _tag(element) == "Pixels")
    axes = pixels.attrib["DimensionOrder"][:1:-1]  # XYCZT: the pages run along C first, T last
    channels = [element for element in pixels if _tag(element) == "Channel"]
    lengths = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "CZT"}
    lengths["C"], rest = divmod(lengths["C"], page.samplesperpixel)
    sizes = tuple(lengths[axis] for axis in axes)
    if rest or sorted(axes) != ["C", "T", "Z"] or math.prod(sizes) != pages:
        return None
    order = np.full(pages, -1)
    for element in (element for element in pixels if _tag(element) == "TiffData"):
        found, uuid = element.attrib, next(iter(element), None)
        if uuid is not None and uuid.attrib.get("FileName", file_name) != file_name:
            if uuid.text != root.attrib.get("UUID"):
                return None  # a part of the image is in another file
        first = np.ravel_multi_index([int(found.get(f"First{axis}", 0)) for axis in axes], sizes)
        count = int(found.get("PlaneCount", 1 if "IFD" in found else pages - first))
        start = int(found.get("IFD", 0))
        if not 0 <= start <= start + count <= pages:
            return None
        order[first : first + count] = np.arange(start, start + count)
    if (order == -1).all():
        order = np.arange(pages)  # there is no such element
    if sorted(order.tolist()) != [*range(pages)]:
        return None
    names = tuple(element.attrib.get("Name", "") for element in channels)
    return _Declared(axes, sizes, names, tuple(order.tolist()))


def _tag(element: ElementTree.Element) -> str:
    """Returns the name of an XML element without its namespace."""
    return element.tag.rpartition("}")[2]


def _checked_names(names: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns names in printable form; () unless they are distinct and none is empty."""
    shown = tuple(printable(str(name)).strip()[:60] for name in names)
    return shown if all(shown) and len({*shown}) == len(shown) else ()
