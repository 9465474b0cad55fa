"""The physical size of a TIFF's pixels, as its metadata state it.

Four kinds of metadata are read, the first that a file has: OME's PhysicalSizeX and PhysicalSizeY;
the unit that ImageJ writes; the pixel scale of a GeoTIFF that is projected in metres; and the tag
ResolutionUnit. Screens, cameras, scanners and printers write the last too, such as 72, 96 or 300
dots per inch, and ImageJ keeps their inches and centimetres. These count only above
`MIN_PER_CENTIMETRE` pixels per centimetre, which no such device has but a microscope does.
"""

import math
from typing import Any
from xml.etree import ElementTree

import tifffile

from unet_jax.data.files.georeference import RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION

# Length of each unit in micrometres. OME's default is µm; ImageJ writes "micron" or an escaped µ.
LENGTHS = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # the micro sign
    "μm": 1.0,  # the Greek letter
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "inch": 25.4e3,
}
TAG_UNITS = {2: "inch", 3: "cm"}  # values of ResolutionUnit
PRINT_UNITS = ("inch", "cm")
MIN_PER_CENTIMETRE = 1000
PROJECTED, METRE = 1, 9001  # values of GeoTIFF keys

PixelSize = tuple[float, ...]  # height and width in micrometres; () if they are not stated


def pixel_size(file: tifffile.TiffFile, page: Any) -> PixelSize:
    """Returns height and width of a pixel in micrometres; () if the file states no physical size.

    Metadata that cannot be understood state none.

    Args:
      file: an open file.
      page: its first page.
    """
    try:
        found = _stated(file, page)
    except Exception:  # tifffile raises many types for damaged metadata
        return ()
    return found if all(math.isfinite(side) and side > 0 for side in found) else ()


def _stated(file: tifffile.TiffFile, page: Any) -> PixelSize:
    if page.is_ome:
        return _ome(page.description)
    if page.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", ""))
        return _resolution(page, unit.encode().decode("unicode_escape") if "\\u" in unit else unit)
    if page.is_geotiff:
        tags = page.geotiff_tags
        in_metres = tags.get("GTModelTypeGeoKey") == PROJECTED
        if in_metres and tags.get("ProjLinearUnitsGeoKey") == METRE and "ModelPixelScale" in tags:
            width, height, *_ = tags["ModelPixelScale"]
            return height * LENGTHS["m"], width * LENGTHS["m"]
        return ()
    return _resolution(page, TAG_UNITS.get(page.tags.valueof(RESOLUTION_UNIT, default=2), ""))


def _ome(description: str) -> PixelSize:
    root = ElementTree.fromstring(description)
    pixels = next(e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels").attrib
    return tuple(
        float(pixels[f"PhysicalSize{axis}"]) * LENGTHS[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
        for axis in "YX"
    )


def _resolution(page: Any, unit: str) -> PixelSize:
    """Returns the size of a pixel by the tags XResolution and YResolution, in pixels per unit."""
    if unit not in LENGTHS:
        return ()
    sides = []
    for code in (Y_RESOLUTION, X_RESOLUTION):
        count, units = page.tags[code].value
        sides.append(units / count * LENGTHS[unit] if count else math.nan)
    if unit in PRINT_UNITS and max(sides) >= LENGTHS["cm"] / MIN_PER_CENTIMETRE:
        return ()
    return tuple(sides)
