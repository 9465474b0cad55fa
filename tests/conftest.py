"""Four CPU devices for every test, and small data sets."""

import gc
import os
import signal
import tempfile
from importlib import metadata

# The garbage collector would look through a million objects of modules again and again.
gc.set_threshold(100_000, 50, 100)
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests send it; a process that nohup has started, and its children, would ignore it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Threads of PyTorch that wait for one another would take the cores from the other workers.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests start many processes, each of which would compile all modules again, for a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Most of what tests do is compiling, which these flags make three times as fast.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if metadata.version("jax").startswith("0.10."):  # later versions abort at this flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Many tests compile the same small network; one of them does it for all.
if "PYTEST_XDIST_WORKER" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name  # the workers have it from here
    # Indexes of checked files too, but matplotlib's cache of fonts takes seconds to build.
    fonts = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(fonts, "matplotlib"))
    caches = tempfile.TemporaryDirectory(prefix="caches-")
    os.environ["XDG_CACHE_HOME"] = caches.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import contextlib
import fcntl
import pathlib
import types
from collections.abc import Callable, Iterator

import emulator
import hypothesis
import jax
import numpy as np
import pytest
import tifffile
from absl import flags
from browser import Browser, find
from documented import added
from launched import launch
from made_data import TINY, make_split
from ml_collections import ConfigDict

from configs import base
from unet_jax.core.files import path_of
from unet_jax.data.dataset import Dataset

jax.config.update("jax_num_cpu_devices", 4)  # here; processes that tests start have one
# On a busy machine a test of a millisecond may take a second.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")
flags.FLAGS(["tests"])  # grain's reader processes want the command line parsed


def pytest_collection_finish() -> None:
    """The garbage collector looks at no object of modules and of tests any more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Each compiled program is some memory maps, of which Linux gives a process 65,530."""
    yield
    with open("/proc/self/maps") as maps:
        if sum(1 for _ in maps) > 20_000:
            jax.clear_caches()


@pytest.fixture
def dataset() -> Dataset:
    """Eight training, three validation and three test images of 32x32 pixels."""
    return Dataset(
        splits={
            "train": make_split(8, 32, seed=1),
            "validation": make_split(3, 32, seed=2),
            "test": make_split(3, 32, seed=3),
        },
        classes=("background", "blob"),
        channels=1,
        sha256={"made": "0"},
    )


@pytest.fixture
def config() -> ConfigDict:
    """A network and a run of seconds for `dataset`."""
    config = base.get_config()
    config.name = "tiny"
    config.batch_size = 4
    config.num_epochs = 2
    config.data.split = (8, 3, 3)
    config.data.size = 16
    config.model.width = 4
    config.model.depth = 2
    config.eval.batch_size = 4
    config.log.every_steps = 1
    return config


@pytest.fixture
def documented(tmp_path) -> Iterator[Callable[[str], types.ModuleType]]:
    """A function that adds a file of docs/extending.md to its package until the test ends."""
    with contextlib.ExitStack() as stack:

        def add(path: str) -> types.ModuleType:
            folder = tmp_path / "documented" / path.replace("/", "-")
            folder.mkdir(parents=True)
            return stack.enter_context(added(path, folder))

        yield add


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of the published data sets, named by the variable UNET_DATA."""
    root = os.environ.get("UNET_DATA")
    if not root:
        pytest.skip("UNET_DATA names no folder with the real data sets")
    return pathlib.Path(root)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[pathlib.Path], None]], pathlib.Path]:
    """A function that makes a folder, once for all workers, and returns it."""
    parent = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent

    def made(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
        with open(parent / f"{name}.lock", "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.fstat(lock.fileno()).st_size:  # the file was opened before the wait
                make(parent / name)
                lock.write("made")
        return parent / name

    return made


@pytest.fixture(scope="session")
def stacks(made_once) -> pathlib.Path:
    """A folder of small stacks under ISBI's names."""

    def make(folder: pathlib.Path) -> None:
        folder.mkdir()
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, (30, 8, 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        volume = (labels * 100 + rng.integers(0, 100, labels.shape)).astype(np.uint8)
        tifffile.imwrite(folder / "train-volume.tif", volume, photometric="minisblack")
        tifffile.imwrite(folder / "train-labels.tif", labels * 255, photometric="minisblack")

    return made_once("stacks", make)


@pytest.fixture(scope="session")
def finished(stacks, made_once) -> pathlib.Path:
    """The folder of a run that nothing disturbed."""

    def make(workdir: pathlib.Path) -> None:
        code, output = launch(*TINY, f"--config.data.root={stacks}", f"--workdir={workdir}")
        assert code == 0, output
        for part in ("devices", "M parameters", "GFLOP", "24 train, 3 validation, 3 test", "left"):
            assert part in output

    return made_once("uninterrupted", make)


@pytest.fixture(scope="session")
def storage() -> Iterator[str]:
    """An emulator of Google Cloud Storage, which this process uses; its URL."""
    with emulator.running() as url, emulator.used(url):
        yield url


@pytest.fixture
def bucket(storage, request) -> Iterator[pathlib.Path]:
    """A folder in a bucket, of the test's own."""
    yield path_of(f"gs://{emulator.BUCKET}/{hash(request.node.nodeid) % 2**32}")
    emulator.fail([])


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """A headless Chromium, for the tests of pages."""
    program = find()
    if not program:
        pytest.skip("no Chromium to open a page with (Debian: apt-get install chromium)")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
