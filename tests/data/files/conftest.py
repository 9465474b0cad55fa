"""Caches for the tests of files."""

import pytest
from made_pairs import TICK_NS

from unet_jax.data.files import index


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    """An empty cache, and files that count as old soon after they were written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "RACY_NS", TICK_NS)
