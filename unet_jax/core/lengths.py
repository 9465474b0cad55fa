"""Units of length in which distances in images are reported."""

MICROMETRES = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "m": 1e6}  # length of each unit
LABELS = {"nm": "nm", "um": "µm", "mm": "mm", "m": "m"}  # on pages and in figures


def unit_of(length: float) -> str:
    """Returns the largest unit of which a length is at least a fortieth, or else nm.

    Pixels of microscopes are thus measured in nm or µm, those of medical scanners in mm, and those
    of aerial and satellite images in m.

    Args:
      length: in micrometres.
    """
    fitting = [unit for unit, size in MICROMETRES.items() if length >= size / 40]
    return fitting[-1] if fitting else "nm"
