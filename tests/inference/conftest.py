"""Fixtures of this folder."""

import pytest
from pictures import _no_pictures as _no_pictures
from shared_programs import _shared_programs as _shared_programs


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Keeps the programs between the files of this folder, which share most of them."""
