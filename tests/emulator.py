"""An emulator of Google Cloud Storage in a process of its own, and what points programs to it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import fsspec
from cluster import free_port

BUCKET = "bucket"
PROGRAM = pathlib.Path(__file__).with_name("storage_emulator.py")


def environment(url: str) -> dict[str, str]:
    """The variables with which gcsfs, tensorstore and Google's client use the emulator at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GOOGLE_CLOUD_PROJECT": "p",
        "NO_GCE_CHECK": "true",
        "FSSPEC_GCS_TOKEN": "anon",  # does not look for credentials, which takes seconds
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


@contextlib.contextmanager
def running() -> Iterator[str]:
    """An emulator; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, PROGRAM, str(port)], **quiet)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                break
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def fail(faults: list) -> None:
    """Makes the next requests fail; see `storage_emulator.py`."""
    url = os.environ["STORAGE_EMULATOR_HOST"]
    urllib.request.urlopen(f"{url}/faults", json.dumps(faults).encode(), timeout=60).close()


def requests() -> int:
    """The number of requests that the emulator has got."""
    url = os.environ["STORAGE_EMULATOR_HOST"]
    with urllib.request.urlopen(f"{url}/requests", timeout=60) as answer:
        return int(answer.read())


@contextlib.contextmanager
def used(url: str) -> Iterator[None]:
    """Makes this process and those that it starts use the emulator at `url`."""
    before = {name: os.environ.get(name) for name in environment(url)}
    os.environ.update(environment(url))
    fsspec.config.set_conf_env(fsspec.config.conf)  # it has read the environment already
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
