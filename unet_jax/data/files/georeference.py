"""Where the pixels of a TIFF lie: the tags of GeoTIFF, and the resolution.

Tags: https://docs.ogc.org/is/19-008r4/19-008r4.html, section 7.
"""

from typing import Any

import tifffile

DOUBLE, SHORT, ASCII, RATIONAL = 12, 3, 2, 5  # types of TIFF values
GEO_TAGS = {
    33550: DOUBLE,  # ModelPixelScale
    33922: DOUBLE,  # ModelTiepoint
    34264: DOUBLE,  # ModelTransformation
    34735: SHORT,  # GeoKeyDirectory
    34736: DOUBLE,  # GeoDoubleParams
    34737: ASCII,  # GeoAsciiParams
}
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
UNITS = (1, 2, 3)  # none, inch, centimetre


def georeference(page: tifffile.TiffPage) -> dict[str, Any]:
    """Returns the georeference and the resolution of a page as arguments of `TiffWriter.write`.

    Tags that break the standards are left out, because tifffile would not write them. So is GDAL's
    value for missing data, which means something else in a mask.

    Args:
      page: the page.

    Returns:
      `extratags` with the GeoTIFF tags; `resolution` and `resolutionunit` if the page has both
      resolutions.
    """
    options: dict[str, Any] = {"extratags": []}
    for code, kind in GEO_TAGS.items():
        tag = page.tags.get(code)
        if tag is None or tag.dtype != kind:
            continue
        value: Any = tag.value
        if kind == ASCII and isinstance(value, str):
            options["extratags"].append((code, kind, 0, value.encode(), False))
        elif kind != ASCII:
            numbers = value if isinstance(value, tuple) else (value,)
            if len(numbers) == tag.count and all(isinstance(x, int | float) for x in numbers):
                options["extratags"].append((code, kind, len(numbers), numbers, False))
    both = [page.tags.get(code) for code in (X_RESOLUTION, Y_RESOLUTION)]
    resolution = tuple(tag.value for tag in both if tag is not None and tag.dtype == RATIONAL)
    if len(resolution) == 2 and all(len(x) == 2 and min(x) > 0 for x in resolution):
        unit = page.tags.valueof(RESOLUTION_UNIT, default=2)
        options |= {"resolution": resolution, "resolutionunit": unit if unit in UNITS else 1}
    return options
