"""Nothing that is read is ever run: no pickle, no eval, whatever a file pretends to be."""

import ast
import contextlib
import io
import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from benchmarks.robustness.readers import READERS
from unet_jax.core.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = [
    ROOT / "launch.py",
    *(ROOT / "unet_jax").rglob("*.py"),
    *(ROOT / "configs").rglob("*.py"),
]
SOURCES += (ROOT / "benchmarks").rglob("*.py")
FORBIDDEN = {"eval", "exec", "compile", "__import__", "execfile"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


def faults(source: str) -> set[str]:
    """What a source has that could run data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if isinstance(node.func, ast.Name):
                found |= {name} & FORBIDDEN
            if options.get("allow_pickle", "False") != "False":
                found.add(f"{name} allow_pickle")
            if name in ("torch.load", "load_checkpoint") and options.get("weights_only") != "True":
                found.add(f"{name} without weights_only")
    return found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import pickle", "pickle"),
        ("from yaml import load", "yaml"),
        ("eval(x)", "eval"),
        ("np.load(x, allow_pickle=True)", "np.load allow_pickle"),
        ("np.load(x, allow_pickle=flag)", "np.load allow_pickle"),
        ("torch.load(x)", "torch.load without weights_only"),
        ("torch.load(x, weights_only=False)", "torch.load without weights_only"),
    ],
)
def test_the_search_finds(source, fault):
    assert faults(source) == {fault}


def test_no_source_could_run_data():
    allowed = {
        ROOT / "unet_jax" / "runs" / "tensor_files.py": {"pickle"},  # the name of its error
        # A file that this process has just written for its own children to read.
        ROOT / "unet_jax" / "data" / "pipeline.py": {"cloudpickle"},
    }
    for path in SOURCES:
        assert faults(path.read_text()) == allowed.get(path, set()), path
    text = (ROOT / "unet_jax" / "runs" / "tensor_files.py").read_text()
    used = {f"pickle.{part.split('(')[0].split()[0]}" for part in text.split("pickle.")[1:]}
    assert used == {"pickle.UnpicklingError"}


class Bomb:
    """Makes the file `marker` when it is unpickled."""

    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def disguises(marker: pathlib.Path) -> dict[str, bytes]:
    """The bomb as the oldest and the newest pickle, as a .npy, a .npz, and as PyTorch packs it."""
    bomb = Bomb(marker)
    made = {f"pickle {i}": pickle.dumps(bomb, i) for i in (0, pickle.HIGHEST_PROTOCOL)}
    array, arrays, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([bomb], object), allow_pickle=True)
    np.savez(arrays, a=np.array([bomb], object))
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(bomb, 2))
        file.writestr("archive/version", "3\n")
    return made | {"npy": array.getvalue(), "npz": arrays.getvalue(), "pth": packed.getvalue()}


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path):
    for name, content in disguises(tmp_path / "marker").items():
        with contextlib.suppress(pickle.UnpicklingError, TypeError):
            if name.startswith("pickle"):
                pickle.loads(content)
            elif name != "pth":
                loaded = np.load(io.BytesIO(content), allow_pickle=True)
                assert name == "npy" or loaded["a"].size
            else:
                continue
        assert (tmp_path / "marker").exists(), name
        (tmp_path / "marker").rmdir()


# When one read fails, orbax leaves, and the others that it had begun complain of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("checkpoint", "state_dict") else ())
        for name in READERS
    ],
)
def test_no_reader_unpickles_what_is_in_the_place_of_a_file(tmp_path, name, capfd):
    reader, folder = READERS[name], tmp_path / "files"
    folder.mkdir()
    reader.make(folder)
    paths = sorted(path for path in folder.glob(reader.targets) if path.is_file())
    for path in [*{path.suffix: path for path in paths}.values(), *paths[:9]]:
        content = path.read_bytes()
        for disguise in disguises(tmp_path / "marker").values():
            path.write_bytes(disguise)
            with contextlib.suppress(UserError):
                reader.read(path, folder)
            assert not (tmp_path / "marker").exists(), path
        path.write_bytes(content)


def test_no_weight_map_is_unpickled_even_with_a_right_digest(tmp_path):
    import hashlib

    reader = READERS["weights"]
    reader.make(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    content = disguises(tmp_path / "marker")["npy"]
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        reader.read(tmp_path, tmp_path)
    assert not (tmp_path / "marker").exists()
