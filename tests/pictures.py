"""Reports without pictures, for tests of runs: drawing takes half of a small run's time."""

import pytest

from unet_jax.reporting import charts, report


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Leaves out what matplotlib draws, as PNG and as SVG."""
    monkeypatch.setattr(report, "overlay_figure", lambda overlays, classes: None)
    monkeypatch.setattr(charts, "figure", lambda drawn: None)
    monkeypatch.setattr(charts, "png", lambda drawn: b"\x89PNG")
    monkeypatch.setattr(charts, "svg", lambda chart: "<svg/>")
