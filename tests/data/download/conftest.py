"""A web server, an empty folder and a small archive for the tests of downloads."""

import dataclasses
import hashlib

import numpy as np
import pytest
import tifffile
from made_archives import STACKS, make_zip
from served import serve

from unet_jax.data.download import transfer
from unet_jax.data.download.archives import ARCHIVES


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0)
    monkeypatch.setattr(transfer, "TIMEOUT", (5, 5))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve() as site:
        yield site


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "set"


@pytest.fixture
def isbi(site, tmp_path):
    """A served archive of small stacks, including the labels of the test volume."""
    rng, pixels = np.random.default_rng(0), {}
    members = [(f"old/copies/{name}", b"from another version") for name in STACKS]
    for name in (*STACKS, "test-labels.tif"):
        stack = rng.integers(0, 256, (5, 128, 128), dtype=np.uint8)
        tifffile.imwrite(tmp_path / name, stack)
        members.append((f"ISBI-2012-challenge/{name}", (tmp_path / name).read_bytes()))
        if name in STACKS:
            pixels[name] = hashlib.sha256(stack.tobytes()).hexdigest()
        (tmp_path / name).unlink()
    site.content = make_zip(tmp_path / "set.zip", *members).read_bytes()
    (tmp_path / "set.zip").unlink()
    return dataclasses.replace(ARCHIVES["isbi"], url=f"{site.url}/set.zip", pixels=pixels)
