"""The colours of charts and overlays, which are distinguishable with any colour vision."""

import numpy as np

# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"


def rgb(colour: str) -> np.ndarray:
    """Returns uint8 [3] for a colour such as "#0072B2"."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def palette() -> np.ndarray:
    """Returns uint8 [256, 3]: Okabe and Ito's colours, their light and dark shades, repeated."""
    hues = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
    full = np.stack([rgb(colour) for colour in hues]).astype(np.float64)
    colours = np.concatenate([[rgb(BLACK)], full, 255 - (255 - full) * 0.45, full * 0.5])
    return colours[np.arange(256) % len(colours)].astype(np.uint8)
