"""Data sets of six public layouts are read as their owners expect, with what the page says.

The commands are those of docs/data-layouts.md.
"""

import pathlib
import re

import made_layouts
import numpy as np
import own_images
import pytest
from launched import parse_here, run_here
from own_images import shown_files, shown_layouts
from pictures import _no_pictures as _no_pictures

from unet_jax import prepare
from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
BINARY = ("background", "foreground")
LAYOUTS = {
    "nuclei": (made_layouts.nuclei, ("background", "object")),
    "camvid": (made_layouts.camvid, CAMVID),
    "streets": (made_layouts.streets, ("background", "car", "road", "tree")),
    "cracks": (made_layouts.cracks, ("road", "crack")),
    "polyps": (made_layouts.polyps, BINARY),
    "fluorescence": (made_layouts.fluorescence, BINARY),
    "instances": (made_layouts.instances, BINARY),
}
FOLDERS = ("--root", "--output", "--config.data.root", "--workdir")
SMALL = (
    "--config.model.width=4",
    "--config.model.depth=1",
    "--config.num_epochs=1",
    "--config.data.size=32",
)


def set_up(name: str, root: pathlib.Path) -> tuple[made_layouts.Truth, list[str]]:
    """Writes a layout and prepares it; returns what to expect, and the arguments of `launch.py`."""
    truth = LAYOUTS[name][0](root)
    for path, text in shown_files().items():
        if (root / path).parent.exists():
            (root / path).write_text(text)
    *preparations, launch = (
        [in_folder(argument, root) for argument in command]
        for command in shown_layouts()[name].commands
    )
    for module, preparation, *arguments in (command[1:] for command in preparations):
        assert module == "unet_jax.prepare"
        assert prepare.main([preparation, *arguments]) == 0
    assert launch[0] == "launch.py"
    return truth, launch[1:]


def in_folder(argument: str, root: pathlib.Path) -> str:
    flag, _, value = argument.partition("=")
    return f"{flag}={root / value}" if flag in FOLDERS else argument


def unscaled(line: str) -> str:
    """A line without shares of pixels, which depend on the images."""
    return re.sub(r"\d+\.\d+%", "%", re.sub(" +", " ", line))


def test_the_page_shows_each_layout():
    assert list(shown_layouts()) == list(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pixels_labels_and_notes_are_what_the_page_promises(tmp_path, name):
    truth, arguments = set_up(name, tmp_path)
    dataset = open_dataset(parse_here(*arguments).config.data)
    assert dataset.classes == LAYOUTS[name][1]
    printed = {unscaled(f"note {x}".replace(f"{tmp_path}/", "")) for x in dataset.notes}
    assert {unscaled(line) for line in shown_layouts()[name].notes} <= printed
    seen = []
    for split in dataset.splits.values():
        assert len(split)
        for k, image_name in enumerate(split.names):
            pixels, label = truth[image_name]
            np.testing.assert_array_equal(split[k]["image"], pixels)
            np.testing.assert_array_equal(split[k]["label"], label)
            seen.append(image_name)
    assert sorted(seen) == sorted(truth)


def test_the_folders_of_camvid_are_its_splits(tmp_path):
    _, arguments = set_up("camvid", tmp_path)
    dataset = open_dataset(parse_here(*arguments).config.data)
    folders = {"train": "train", "validation": "val", "test": "test"}
    for part, folder in folders.items():
        files = (tmp_path / "camvid" / folder).iterdir()
        assert sorted(dataset.splits[part].names) == sorted(path.stem for path in files)


def test_the_value_11_of_camvid_may_be_ignored_by_a_field(tmp_path):
    truth, arguments = set_up("camvid", tmp_path)
    (tmp_path / "camvid" / "classes.txt").unlink()
    (field,) = re.findall(r'`(--config\.data\.ignore)="(\(11,\))"`', own_images.LAYOUTS)
    data = parse_here(*arguments, "=".join(field)).config.data
    dataset = open_dataset(data)
    assert dataset.classes == tuple(f"class-{i}" for i in range(11))
    name = dataset.splits["test"].names[0]
    np.testing.assert_array_equal(dataset.splits["test"][0]["label"], truth[name][1])
    data.ignore = ()
    assert len(open_dataset(data).classes) == 12


def test_numbers_of_objects_are_refused_without_the_field_that_the_page_names(tmp_path):
    _, arguments = set_up("instances", tmp_path)
    arguments.remove("--config.data.binary=nonzero")
    with pytest.raises(UserError, match=r"--config\.data\.binary=nonzero makes all"):
        open_dataset(parse_here(*arguments).config.data)


def test_a_colour_without_a_name_is_refused(tmp_path):
    _, arguments = set_up("streets", tmp_path)
    path = tmp_path / "streets" / "classes.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"masks/frame_.*#24b353 .* has no name in .*classes\.txt"):
        open_dataset(parse_here(*arguments).config.data)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_trains_and_reports(tmp_path, name):
    _, arguments = set_up(name, tmp_path)
    code, output = run_here(*arguments, *SMALL)
    assert code == 0, output
    assert "test, checkpoint of step" in output
    (workdir,) = (tmp_path / "runs").iterdir()
    assert (workdir / "report.html").exists()
