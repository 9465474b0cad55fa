"""Reports without pictures, for tests of runs: drawing takes half of a small run's time."""

import pytest
from launch_without_pictures import leave_out_pictures


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    leave_out_pictures(monkeypatch.setattr)
