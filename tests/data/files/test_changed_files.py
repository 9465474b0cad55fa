"""Opening and reading a data set find every change of its files since they were checked."""

import os
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_files import noise, save
from made_pairs import damage, describe, index_files, options, wait, write_pair

from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset
from unet_jax.data.dataset import Dataset
from unet_jax.data.files import images, masks, tiff
from unet_jax.data.files.images import read_image
from unet_jax.data.files.index import stamp_of
from unet_jax.data.files.masks import read_mask
from unet_jax.data.sources.folder import open_folder

pytestmark = pytest.mark.usefixtures("cache")


def outcome(function, *args):
    """What a call returns, or the text of its `UserError`."""
    try:
        return function(*args)
    except UserError as error:
        return str(error)


def forbid_checks(patch) -> None:
    def fail(*_):
        raise AssertionError("checked again")

    for name in ("_check_kind", "_check_png", "_decode_png"):
        patch.setattr(images, name, fail)
    for name in ("check_directories", "_check"):
        patch.setattr(tiff, name, fail)


PICTURES = {
    "grey.png": ((30, 20), {}),
    "last-row-black.png": ((30, 20, 3), {}),
    "photo.jpg": ((30, 20, 3), {}),
    "deflated.tif": ((30, 20, 3), {"compression": "tiff_adobe_deflate"}),
    "lzw.tif": ((30, 20), {"compression": "tiff_lzw"}),
    "photo.bmp": ((30, 20, 3), {}),
    "ids.gif": ((30, 20), {}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_reading_an_unchanged_file_checks_nothing_and_gives_the_same(tmp_path, monkeypatch, name):
    shape, saving = PICTURES[name]
    pixels = noise(shape, below=2)
    pixels[-1] = 0
    path = save(tmp_path / name, pixels, **saving)
    readers = {
        "image": lambda checked: read_image(path, 3, checked),
        "mask": lambda checked: read_mask(path, checked),
    }
    if name.endswith(".jpg"):
        del readers["mask"]
    for kind, read in readers.items():
        expected = read(None)
        with monkeypatch.context() as patch:
            forbid_checks(patch)
            found = read(stamp_of(path))
            assert found.dtype == expected.dtype, kind
            np.testing.assert_array_equal(found, expected)
            # Pillow reports it: `_opened` turns any exception into a `UserError`.
            with pytest.raises((AssertionError, UserError), match="checked again"):
                read(stamp_of(path)._replace(changed_ns=0))


def test_a_file_that_changes_while_it_is_read_is_read_again_with_checks(tmp_path, monkeypatch):
    write_pair(tmp_path, "a")
    path = tmp_path / "masks/a.png"
    checked, read = stamp_of(path), masks._read_mask
    verified = []

    def change_and_read(path, verify):
        verified.append(verify)
        if not verify:
            path.write_bytes(path.read_bytes()[:-20])
        return read(path, verify)

    monkeypatch.setattr(masks, "_read_mask", change_and_read)
    with pytest.raises(UserError, match="cannot be read"):
        read_mask(path, checked)
    assert verified[0] is False


# Random changes of a data set.

CHANGES = ("rewrite", "rewrite in time", "replace", "break", "touch", "swap", "lose")
STEPS = st.one_of(
    st.sampled_from([("open",), ("wait",)]),
    *(
        st.tuples(st.just(kind), st.sampled_from("abc"), st.sampled_from(["images", "masks"]))
        for kind in CHANGES
    ),
    st.tuples(st.just("damage index"), st.integers(0, 4)),
)


def change(root: pathlib.Path, kind: str, name: str, part: str, seed: int) -> None:
    """Changes a file of a data set; its size stays the same, unless it is lost or broken."""
    path, other = root / part / f"{name}.png", root / part / "a.png"
    before = path.stat() if path.exists() else other.stat()
    if kind in ("rewrite", "rewrite in time", "replace"):
        write_pair(root.parent / "new", name, seed)
        new = root.parent / "new" / part / f"{name}.png"
        if kind == "replace":
            os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.replace(new, path)
        else:
            path.write_bytes(new.read_bytes())
        if kind == "rewrite in time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif kind == "break" and path.exists():
        content = bytearray(path.read_bytes())
        content[-14] ^= 1  # in the checksum of the pixels, which Pillow ignores
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif kind == "touch" and path.exists():
        os.utime(path)
    elif kind == "swap" and path.exists() and other != path and other.exists():
        os.rename(path, root.parent / "held")
        os.rename(other, path)
        os.rename(root.parent / "held", other)
    elif kind == "lose" and name == "c":
        path.unlink(missing_ok=True)


def read_all(dataset: Dataset, checked: bool) -> list:
    """All examples of the training split; without `checked` every file is checked in full."""
    split, results = dataset.splits["train"], []
    files, channels, to_label = split.read.args
    for i, (image, _, mask, *_) in enumerate(files):
        if checked:
            found = outcome(split.read, i)
        else:
            found = outcome(
                lambda a, b: (read_image(a, channels), to_label(read_mask(b))), image, mask
            )
        results.append(found if isinstance(found, str) else [array.tolist() for array in found])
    return results


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=3, max_size=14))
@example(steps=[("break", "a", "images")])
@example(steps=[("rewrite in time", "b", "masks"), ("open",), ("swap", "b", "masks")])
@example(steps=[("damage index", 1), ("open",), ("replace", "c", "masks")])
def test_after_any_changes_opening_and_reading_find_what_fresh_checks_find(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("changes")
    root, dataset = folder / "data", None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for seed, name in enumerate("abc"):
            write_pair(root, name, seed)
        for seed, (kind, *arguments) in enumerate([("wait",), ("open",), *steps, ("open",)]):
            if kind == "open":
                dataset, fresh = (outcome(x, options(root)) for x in (open_dataset, open_folder))
                if isinstance(fresh, str):
                    assert dataset == fresh
                else:
                    assert describe(dataset) == describe(fresh)
            elif kind == "wait":
                wait()
            elif kind == "damage index":
                for path in index_files(folder):
                    if arguments == [4]:
                        path.unlink()
                    else:
                        path.write_bytes(damage(path.read_bytes(), arguments[0]))
            elif kind in CHANGES:
                change(root, kind, *arguments, seed=seed + 10)
            if isinstance(dataset, Dataset):
                assert read_all(dataset, checked=True) == read_all(dataset, checked=False)
