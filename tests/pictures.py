"""Reports without pictures, for tests of runs: drawing takes half of a small run's time."""

import pytest

from unet_jax.reporting import charts, report


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Leaves out what matplotlib draws, as PNG and as SVG."""
    patch.setattr(report, "overlay_figure", lambda overlays, classes: None)
    patch.setattr(charts, "figure", lambda drawn: None)
    patch.setattr(charts, "png", lambda drawn: b"\x89PNG")
    patch.setattr(charts, "svg", lambda chart: "<svg/>")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    without_pictures(monkeypatch)
