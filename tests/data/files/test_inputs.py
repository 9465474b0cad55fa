"""Which files are predicted, and what their outputs are called."""

import os
import pathlib

import pytest

from unet_jax.core.errors import UserError
from unet_jax.data.files.inputs import RECORD, find_inputs

OUT = pathlib.Path("out")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/b.png",
        "in/a.1.TIF",
        "in/c.jpg",
        "in/.d.png",
        "in/readme.txt",
        "in/more/e.bmp",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def paths(*names: str) -> list[pathlib.Path]:
    return [pathlib.Path(name) for name in names]


def test_of_a_folder_the_images_in_sorted_order(folder):
    found = find_inputs("in", OUT)
    assert list(found) == ["a.1", "b", "c"]
    assert list(found.values()) == paths("in/a.1.TIF", "in/b.png", "in/c.jpg")


def test_files_with_any_name_are_found(folder):
    assert find_inputs("in/readme.txt", OUT) == {"readme": pathlib.Path("in/readme.txt")}


def test_a_pattern_keeps_the_folders_below_its_fixed_part(folder):
    assert list(find_inputs("in/*.png", OUT)) == ["b"]
    found = find_inputs(str(folder / "**" / "*.[bp]*"), OUT)
    assert list(found) == ["in/b", "in/more/e"]
    assert list(find_inputs("i?/more/*", OUT)) == ["in/more/e"]


@pytest.mark.parametrize("wanted", ["nowhere", "in/*.gif", "empty"])
def test_nothing_to_predict_is_named(folder, wanted):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"--input=.*no such file") as error:
        find_inputs(wanted, OUT)
    assert wanted in str(error.value)


def test_two_inputs_of_one_name_are_refused(folder):
    (folder / "in/b.tif").touch()
    with pytest.raises(
        UserError, match=r"in/b\.tif: its mask would have the same name as that of b\.png"
    ):
        find_inputs("in", OUT)
    assert list(find_inputs("in/*.tif", OUT)) == ["b"]


@pytest.mark.parametrize(
    ("wanted", "output"), [("in", "in"), ("in/b.png", "in/../in"), ("in/**", "in/more")]
)
def test_the_output_must_not_hold_inputs(folder, wanted, output):
    with pytest.raises(UserError, match=f"--output={output}: contains the input"):
        find_inputs(wanted, pathlib.Path(output))


def test_an_output_behind_a_link_is_seen(folder):
    os.symlink(folder / "in", folder / "link")
    with pytest.raises(UserError, match="contains the input"):
        find_inputs("in", pathlib.Path("link"))


@pytest.mark.parametrize("wanted", ["in/*/../../in2/*.png", "in/**/../b.png", "i*/../in2/x.png"])
def test_two_dots_after_a_wildcard_are_refused(folder, wanted):
    """Below --output it would lead out of it."""
    (folder / "in2").mkdir()
    (folder / "in2/x.png").touch()
    with pytest.raises(UserError, match=r"--input=.*'\.\.' after a wildcard"):
        find_inputs(wanted, OUT)
    assert list(find_inputs("in/../in2/*.png", OUT)) == ["x"]
    assert list(find_inputs("in/more/../../in2/x.png", OUT)) == ["x"]


def test_masks_that_the_pattern_matches_are_no_inputs_of_the_next_call(folder):
    """So that a call which was stopped can be repeated."""
    output, pattern = folder / "in/out", "in/**/*.*"
    first = find_inputs(pattern, output)
    for name in (RECORD, "b.png", "more/e.png", "probabilities/b.tif"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
    assert find_inputs(pattern, output) == first
    with pytest.raises(UserError, match="contains the input"):
        find_inputs("in/out", output)
    (output / RECORD).unlink()
    with pytest.raises(UserError, match="contains the input"):
        find_inputs(pattern, output)


@pytest.mark.parametrize("wanted", ["x" * 300, "in/" + "x" * 300 + ".png"])
def test_an_input_that_cannot_be_looked_for_is_one_line(folder, wanted):
    with pytest.raises(UserError, match=r"--input=.*(cannot be read|no such file)"):
        find_inputs(wanted, OUT)
