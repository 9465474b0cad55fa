"""Tests of reports leave out the drawing, which takes most of their time, unless they need it."""

import pytest

from unet_jax.reporting import charts


@pytest.fixture
def real_pictures() -> None:
    """For tests that need pictures as matplotlib draws them."""


@pytest.fixture
def no_pictures(request, monkeypatch):
    """Leaves out what matplotlib draws, unless the test uses `real_pictures`."""
    if "real_pictures" not in request.fixturenames:
        monkeypatch.setattr(charts, "png", lambda drawn: b"\x89PNG")
        monkeypatch.setattr(charts, "svg", lambda chart: "<svg/>")
