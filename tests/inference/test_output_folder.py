"""Every path that a prediction writes is its own, inside its folder, and over no input."""

import itertools
import json
import os
import pathlib
import tempfile
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unet_jax.core.errors import UserError
from unet_jax.data.files.inputs import RECORD, find_inputs
from unet_jax.inference.output_folder import check_paths, claim
from unet_jax.inference.outputs import Extras, Outputs

# Names of what a prediction makes, and some that differ only in case or in the form of an accent.
STEMS = ("x", "X", "0000", "overlays", "probabilities", "Overlays", RECORD, "a.b", "..x")
STEMS += ("\u00e9", "e\u0301")
ENDINGS = (".png", ".PNG", ".tif", ".jpg", ".b", "")
PATTERNS = ("in/**", "in/**/*.*", "in/*/*", "i*/**", "in/*/../*", "in/*/../../in2/*", "**/x*", "in")
OPTIONS = {"channels": 1, "classes": "ab", "threshold": 0.5}

part = st.sampled_from(STEMS)
names = st.builds(
    lambda folders, stem, ending: "/".join([*folders, stem + ending]),
    st.lists(st.builds(str.__add__, part, st.sampled_from(("", ".png", ".tif"))), max_size=2),
    part,
    st.sampled_from(ENDINGS),
)


def plan(
    folder: pathlib.Path, wanted: str, output: pathlib.Path, pages=(1,), **options
) -> dict[pathlib.Path, Outputs]:
    """The outputs of each input, if they may be written; `pages` are of its TIFFs, in turn."""
    extras = Extras(**{"probabilities": True, "overlays": True} | options)
    counts, planned = itertools.cycle(pages), {}
    for name, path in find_inputs(str(folder / wanted), output).items():
        sizes = [(1, 1)] * (next(counts) if path.suffix.lower() == ".tif" else 1)
        planned[path] = Outputs(output, name, path, sizes, extras, **OPTIONS)
    written = {path: outputs.written for path, outputs in planned.items()}
    check_paths(output, written, [output / RECORD])
    return planned


def fill(folder: pathlib.Path, paths) -> None:
    for path in paths:
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.encode())
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue  # a file and a folder of one name


def fold(path: pathlib.Path) -> str:
    return unicodedata.normalize("NFC", str(path).casefold())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    paths=st.sets(names, min_size=1, max_size=5),
    wanted=st.sampled_from(PATTERNS),
    output=st.sampled_from(("out", "in/out", "out/../out2", "link", "in")),
    linked=st.sampled_from((None, "overlays", "probabilities", "x", "0000")),
    pages=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    probabilities=st.booleans(),
    overlays=st.booleans(),
)
@example({"x.png", "overlays/x.png"}, "in/**", "out", None, [1], False, True)
@example({"x.tif", "x/0000.png"}, "in/**", "out", None, [2], False, True)
@example({f"{RECORD}/x.png"}, "in/**", "out", None, [1], False, False)
@example({"x.jpg", "x.png/a.png"}, "in/**", "out", None, [1], False, False)
@example({"x/a.png", "../in2/a.png"}, "in/*/../../in2/*", "out", None, [1], False, False)
@example({"x/a.png"}, "in/**", "out", "x", [1], False, False)
@example({"x.png", "X.png"}, "in/**", "out", None, [1], False, False)
def test_a_prediction_is_refused_or_writes_each_path_once_inside_its_folder(
    paths, wanted, output, linked, pages, probabilities, overlays
):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "in2").mkdir()
        fill(folder / "in", paths)
        (folder / "real").mkdir()
        (folder / "link").symlink_to("real")
        output = folder / output
        if linked and output.name == "out":
            output.mkdir(parents=True)
            (output / linked).symlink_to(folder / "in")
        try:
            options = {"probabilities": probabilities, "overlays": overlays}
            planned = plan(folder, wanted, output, pages, **options)
        except UserError as error:
            assert "\n" not in str(error).replace(name, "")
            return
        written = [output / RECORD]
        for masks in planned.values():
            written += masks.written
        real = [pathlib.Path(os.path.realpath(path)) for path in written]
        assert len({fold(path) for path in real}) == len(written)
        for path in real:
            assert path.is_relative_to(os.path.realpath(output))
            assert not {fold(other) for other in real} & {fold(above) for above in path.parents}
        before = {path: path.read_bytes() for path in planned}
        for path in written:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path))
        assert {path: path.read_bytes() for path in planned} == before
        assert all(path.read_text() == str(path) for path in written)


def test_what_would_be_written_twice_is_named_with_both_inputs(tmp_path):
    fill(tmp_path / "in", ["x.png", "overlays/x.png"])
    plan(tmp_path, "in/**", tmp_path / "out", overlays=False)
    with pytest.raises(UserError) as error:
        plan(tmp_path, "in/**", tmp_path / "out")
    for path in ("in/x.png", "in/overlays/x.png", "out/overlays/x.png"):
        assert str(tmp_path / path) in str(error.value)


def test_an_output_that_is_a_name_of_the_input_is_refused(tmp_path):
    fill(tmp_path / "in", ["x.png"])
    for link in (os.symlink, os.link):
        output = tmp_path / link.__name__
        output.mkdir()
        link(tmp_path / "in/x.png", output / "x.png")
        with pytest.raises(UserError, match=r"x\.png, which is the input"):
            plan(tmp_path, "in", output)


def test_a_link_in_the_folder_must_not_lead_out_of_it(tmp_path):
    fill(tmp_path / "in", ["x.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/overlays").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"outside --output=.*out; remove the symbolic links"):
        plan(tmp_path, "in", tmp_path / "out")
    plan(tmp_path, "in", tmp_path / "out", overlays=False)


MADE = {"weights": "ab", "threshold": 0.5, "steps": [7]}


def test_a_folder_belongs_to_what_its_masks_depend_on(tmp_path):
    output = tmp_path / "some/out"
    for _ in range(2):
        claim(output, MADE)
        (output / "a.png").touch()
    for key, value in (("weights", "cd"), ("threshold", 0.25), ("steps", [7, 8])):
        with pytest.raises(UserError, match=f"other settings \\({key}: .* there, .* here\\)"):
            claim(output, MADE | {key: value})
    with pytest.raises(UserError, match="more: 1 there, unknown here"):
        (output / RECORD).write_text(json.dumps(MADE | {"more": 1}))
        claim(output, MADE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"steps": [7]}', "an earlier version wrote .* does not record weights, threshold"),
        ("[]", "is not the record of a prediction"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_a_record_that_says_too_little_is_refused(tmp_path, content, said):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(UserError, match=said):
        claim(tmp_path, MADE)
    assert (tmp_path / RECORD).read_text() == content


def test_a_kill_while_the_record_is_written_leaves_a_folder_that_can_be_taken(tmp_path):
    (tmp_path / f".{RECORD}.123.tmp").write_text("{")
    claim(tmp_path, MADE)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


@pytest.mark.parametrize("output", ["file", "file/below", "x" * 300, "loop/out"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, output):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    check_paths(tmp_path / output, {}, [])
    with pytest.raises(UserError, match="--output="):
        claim(tmp_path / output, MADE)
