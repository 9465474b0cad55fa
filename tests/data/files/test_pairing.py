"""Images and masks are paired as people name them, or an error says what is missing."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import refused

from unet_jax.core.errors import UserError
from unet_jax.data.files.pairing import IMAGES, MASKS, pair_files

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
AFFIXES = (
    "_mask _masks _label _labels _seg _segmentation _GT -gt _annotation .mask _Mask _0000 _cp_masks"
).split()


def make(root, images, masks, folders=("images", "masks")):
    for folder, names in zip(folders, (images, masks), strict=True):
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()
    return root


def pair(root, *patterns):
    files, notes = pair_files(root, "get it", *patterns)
    return {name: (a.name, b.name) for name, (a, b) in files.items()}, notes


@pytest.mark.parametrize("affix", [*AFFIXES, "mask_", "Label_"])
def test_the_usual_prefixes_and_suffixes_are_left_out(tmp_path, affix):
    masks = [f"{affix}{x}.png" if affix.endswith("_") else f"{x}{affix}.png" for x in ("a1", "B2")]
    files, notes = pair(make(tmp_path, ["a1.jpg", "B2.jpg"], masks))
    assert files == {"a1": ("a1.jpg", masks[0]), "B2": ("B2.jpg", masks[1])}
    assert len(notes) == (affix != "_mask")


def test_both_sides_may_have_suffixes(tmp_path):
    images = ["img_0000_image.tif", "img_0001_image.tif"]
    masks = ["img_0000_label.tif", "img_0001_label.tif"]
    assert pair(make(tmp_path, images, masks))[0] == {
        "img_0000_image": (images[0], masks[0]),
        "img_0001_image": (images[1], masks[1]),
    }


@PROPERTY
@given(
    names=st.sets(st.text("abé1 -", min_size=1, max_size=5).filter(str.strip), min_size=2),
    suffixes=st.tuples(*[st.sampled_from(["", *AFFIXES])] * 2),
    forms=st.tuples(*[st.sampled_from(["NFC", "NFD"])] * 2),
    upper=st.booleans(),
)
def test_pairs_have_the_same_name(tmp_path_factory, names, suffixes, forms, upper):
    names = {name.strip() for name in names}
    root = tmp_path_factory.mktemp("pairs")
    images, masks = (
        {name: unicodedata.normalize(form, name) + suffix for name in names}
        for form, suffix in zip(forms, suffixes, strict=True)
    )
    if upper:
        masks = {name: mask.upper() for name, mask in masks.items()}
    make(root, [f"{x}.jpg" for x in images.values()], [f"{x}.PNG" for x in masks.values()])
    found = {*pair(root)[0].values()}
    assert found == {(f"{images[name]}.jpg", f"{masks[name]}.PNG") for name in names}


@pytest.mark.parametrize("images", [*IMAGES, "Images"])
@pytest.mark.parametrize("masks", [*MASKS, "GT"])
def test_the_folders_have_usual_names(tmp_path, images, masks):
    make(tmp_path, ["a.png"], ["a.png"], (images, masks))
    assert pair(tmp_path)[0] == {"a": ("a.png", "a.png")}


def test_masks_is_preferred_to_other_folders_and_these_are_ambiguous(tmp_path):
    make(tmp_path, ["a.png"], ["a.png"])
    make(tmp_path, ["b.xml"], ["c.txt"], ("annotations", "labels"))
    assert pair(tmp_path)[0] == {"a": ("a.png", "a.png")}
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "masks").rmdir()
    refused(pair, tmp_path, "annotations and labels")


def test_what_systems_create_is_ignored(tmp_path):
    make(tmp_path, ["a.tif", "a.tif.aux.xml", "THUMBS.DB", ".DS_Store"], ["a.tif", "Desktop.ini"])
    (tmp_path / "images/__MACOSX").mkdir()
    assert pair(tmp_path)[0] == {"a": ("a.tif", "a.tif")}


def test_a_file_without_partner_is_named_with_the_nearest(tmp_path):
    make(tmp_path, ["case_01.png", "case_02.png"], ["case_02_label.png", "case-01x.png", "z.png"])
    refused(pair, tmp_path, "images/case_01.png", "has no mask", "'case_01'", "case-01x.png")
    (tmp_path / "images/case_01.png").unlink()
    refused(pair, tmp_path, "has no image", "(nor do 1 others)", "case_02.png")


def test_common_names_must_differ(tmp_path):
    refused(
        pair, make(tmp_path, ["a.png", "A_image.png"], ["a_label.png", "q.png"]), "'a'", "rename"
    )


def test_patterns_say_which_part_is_the_name(tmp_path):
    make(tmp_path, ["P1_T1_x.png", "P1_T2_x.png"], ["m-P1_T1.png", "notes.png"])
    files, notes = pair(tmp_path, r"^(P\d+_T1)", r"^m-(.+)\.png$")
    assert files == {"P1_T1": ("P1_T1_x.png", "m-P1_T1.png")}
    assert "data.image_pattern" in notes[0]
    assert "notes.png" in notes[1]
    refused(lambda p: pair(tmp_path, p), "(P", "data.image_pattern", "regular expression")
    refused(lambda p: pair(tmp_path, p), "P", "no group")
    refused(lambda p: pair(tmp_path, p), "(Q)", "does not match")
    refused(lambda p: pair(tmp_path, p), "(P1)_", "same name")


@PROPERTY
@given(
    names=st.lists(st.text("ab1", min_size=1, max_size=3), min_size=2, max_size=5, unique=True),
    before=st.sampled_from(["", "x_", "lesion-"]),
    after=st.sampled_from(["", "_lesion", " (2)", ".v2"]),
    of_images=st.booleans(),
    upper=st.booleans(),
)
def test_names_with_one_addition_are_paired(
    tmp_path_factory, names, before, after, of_images, upper
):
    longer = {name: f"{before}{name.upper() if upper else name}{after}" for name in names}
    images, masks = (longer.values(), names) if of_images else (names, longer.values())
    files = {
        image: (f"{image}.jpg", f"{mask}.png") for image, mask in zip(images, masks, strict=True)
    }
    shown = (f"{x}.jpg" for x in images), (f"{x}.png" for x in masks)
    assert pair(make(tmp_path_factory.mktemp("pairs"), *shown))[0] == files


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a.jpg", "b.jpg"], ["a_x.png", "b_y.png"]),
        (["a.jpg", "b.jpg"], ["a_x.png", "b_x.png", "c_x.png"]),
        (["a.jpg", "b.jpg"], ["alesion.png", "blesion.png"]),
        (["1.jpg", "1_1.jpg"], ["1_1.png", "1_1_1.png"]),
    ],
)
def test_no_other_addition_is_guessed(tmp_path, images, masks):
    try:
        files, _ = pair(make(tmp_path, images, masks))
    except UserError as error:
        assert "(.+)_lesion" in str(error) or "common name" in str(error)
    else:
        assert all(image.removesuffix(".jpg") == mask[:-4] for image, mask in files.values())


def test_the_error_about_a_pattern_has_an_example(tmp_path):
    make(tmp_path, ["a.jpg"], ["a_lesion_1.png"])
    refused(lambda p: pair(tmp_path, "", p), "*_lesion.png", "data.mask_pattern", "(.+)_lesion")
