"""A user's folder: what masks are is recognised and said, or refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import noise, refused, save
from ml_collections import ConfigDict
from PIL import Image

from configs import folder as folder_config
from unet_jax.data import DATASETS
from unet_jax.data.sources.folder import open_folder

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)


def config(root, split=(), **options) -> ConfigDict:
    data = folder_config.get_config().data
    data.root, data.split = str(root), split
    data.update(options)
    return data


def write(root, masks, palette=None, ending="png", suffix=""):
    """Images with these masks, named a, b, ...; all earlier files go."""
    for old in [*root.glob("images/*"), *root.glob("masks/*")]:
        old.unlink()
    for seed, mask in enumerate(masks):
        mask = np.asarray(mask, None if np.asarray(mask).dtype == bool else np.uint8)
        name = chr(ord("a") + seed)
        save(root / f"images/{name}.png", noise((*mask.shape[:2], 3), seed=seed))
        options = {"optimize": False} if ending == "gif" else {}
        save(root / f"masks/{name}{suffix}.{ending}", mask, palette, **options)
    return config(root)


def labels(dataset) -> list[np.ndarray]:
    return [dataset.splits["train"][i]["label"] for i in range(len(dataset.splits["train"]))]


def masks_of(*values):
    """One mask for each collection of values, with all of them."""
    rngs = (np.random.default_rng(seed) for seed in range(len(values)))
    return [
        rng.permutation(np.resize(v, 80)).reshape(8, 10).astype(np.uint8)
        for rng, v in zip(rngs, values, strict=True)
    ]


BINARY = ("background", "foreground")


def test_images_without_foreground_are_counted_where_windows_should_have_it(tmp_path):
    data = write(tmp_path, masks_of((0, 255), (0,), (0,)))
    assert "no foreground" not in "\n".join(open_folder(data).notes)
    data.foreground = 0.5
    assert "2 of 3 training images have no foreground" in "\n".join(open_folder(data).notes)


def test_it_is_registered():
    assert DATASETS["folder"].open is open_folder


@pytest.mark.parametrize(
    ("values", "classes", "table"),
    [
        ([(0, 255)], BINARY, {0: 0, 255: 1}),
        ([(0, 1)], BINARY, {0: 0, 1: 1}),
        ([(0, 255), (0,)], BINARY, {0: 0, 255: 1}),
        ([(0, 1), (1,), (0,)], BINARY, {0: 0, 1: 1}),
        ([(0, 1, 255)], BINARY, {0: 0, 1: 1, 255: 255}),
        ([(0, 1, 255), (0, 1), (0, 255)], BINARY, {0: 0, 1: 1, 255: 255}),
        ([(0, 1, 2)], ("class-0", "class-1", "class-2"), {0: 0, 1: 1, 2: 2}),
        ([(0, 1), (2, 255)], ("class-0", "class-1", "class-2"), {0: 0, 1: 1, 2: 2, 255: 255}),
        ([range(64)], tuple(f"class-{i}" for i in range(64)), {i: i for i in range(64)}),
    ],
)
@pytest.mark.parametrize("kind", ["grey", "palette", "rgb", "gif", "tif"])
def test_values_are_recognised(tmp_path, values, classes, table, kind):
    masks = masks_of(*values)
    stored = [np.stack([mask] * 3, axis=-1) for mask in masks] if kind == "rgb" else masks
    ending = kind if kind in ("gif", "tif") else "png"
    palette = noise((256, 3)) if kind in ("palette", "gif") else None
    dataset = open_folder(write(tmp_path, stored, palette, ending))
    assert tuple(dataset.classes) == classes
    for mask, label in zip(masks, labels(dataset), strict=True):
        np.testing.assert_array_equal(label, np.vectorize(table.get)(mask))
        assert label.dtype == np.uint8
    assert f"{len(classes)} classes" in dataset.notes[0]
    assert ("255 is ignored" in dataset.notes[0]) == (table.get(255) == 255)


def test_one_bit_masks_are_binary(tmp_path):
    bits = noise((4, 5), below=2).astype(bool)
    dataset = open_folder(write(tmp_path, [bits], ending="bmp"))
    assert dataset.classes == BINARY
    np.testing.assert_array_equal(labels(dataset)[0], bits)


@PROPERTY
@given(
    colours=st.lists(
        st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=64, unique=True
    ).filter(lambda colours: any(len(set(colour)) > 1 for colour in colours)),
    ending=st.sampled_from(["png", "tif", "bmp"]),
)
def test_colours_are_classes_in_their_order(tmp_path_factory, colours, ending):
    ids = np.r_[np.arange(len(colours)), noise(80 - len(colours), below=len(colours))]
    mask = np.array(colours, np.uint8)[ids.reshape(8, 10)]
    dataset = open_folder(write(tmp_path_factory.getbasetemp() / "colours", [mask], ending=ending))
    names = sorted("#" + "".join(f"{c:02x}" for c in colour) for colour in colours)
    assert list(dataset.classes) == names
    expected = [[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in row] for row in mask.tolist()]
    named = np.array(names)[labels(dataset)[0]]
    np.testing.assert_array_equal(named, expected)
    assert f"{len(colours)} RGB colours" in dataset.notes[0]


def test_a_grey_colour_among_others_is_a_class_like_them(tmp_path):
    black_white = noise((4, 5, 1), below=2).repeat(3, axis=2) * 255
    red = np.array([[0, 0, 0], [255, 0, 0]])[noise((4, 5), below=2)]
    dataset = open_folder(write(tmp_path, [black_white, red]))
    assert tuple(dataset.classes) == ("#000000", "#ff0000", "#ffffff")
    np.testing.assert_array_equal(labels(dataset)[0], noise((4, 5), below=2) * 2)
    np.testing.assert_array_equal(labels(dataset)[1], noise((4, 5), below=2))


def test_palettes_that_each_file_numbers_anew_are_refused(tmp_path):
    palette = noise((256, 3))
    data = write(tmp_path, masks_of((0, 1, 2), (0, 2)), palette)
    assert len(open_folder(data).classes) == 3
    save(tmp_path / "masks/b.png", np.minimum(masks_of((0,), (0, 2))[1], 1), palette[[0, 2]])
    refused(open_folder, data, "masks/b.png", "a.png", "index 1", bytes(palette[2]).hex())


def test_greys_that_a_gif_numbers_anew_are_still_greys(tmp_path):
    masks = masks_of((0, 255), (255,), (0,))
    data = write(tmp_path, masks)
    for name, mask in zip("abc", masks, strict=True):
        (tmp_path / f"masks/{name}.png").unlink()
        save(tmp_path / f"masks/{name}.gif", mask)  # writes the greys that occur alone
    dataset = open_folder(data)
    assert dataset.classes == BINARY
    assert [label.mean() for label in labels(dataset)] == [0.5, 1, 0]


def test_colours_and_ids_do_not_mix(tmp_path):
    red = np.array([[0, 0, 0], [255, 0, 0]])[noise((4, 5), below=2)]
    data = write(tmp_path, [red, *masks_of((0, 1))])
    refused(open_folder, data, "masks/a.png", "masks/b.png", "same format")


def smooth(steps) -> np.ndarray:
    """The edge of a mask, blurred: greys between black and white."""
    return np.tile(np.linspace(0, 255, steps).astype(np.uint8), (4, 1))


@pytest.mark.parametrize("steps", [9, 100, 256])
def test_smoothed_masks_are_refused_with_their_values(tmp_path, steps):
    data = write(tmp_path, [*masks_of((0, 255)), smooth(steps)])
    values = [str(value) for value in np.unique(smooth(steps))[:3]]
    message = refused(open_folder, data, tmp_path / "masks", "b.png", ", ".join(values), "smooth")
    assert f"({steps} values)" in message
    assert "--config.data.threshold=128" in message


def test_smoothed_colours_are_refused_with_their_number(tmp_path):
    edge = np.stack([smooth(90), smooth(90) // 2, smooth(90) // 3], axis=-1)
    refused(open_folder, write(tmp_path, [edge]), "masks/a.png", "90 colours", "64")
    halves = [edge[:, :45], edge[:, 45:]]
    refused(open_folder, write(tmp_path, halves), tmp_path / "masks", "90 colours", "64")


def test_ids_with_a_gap_and_255_need_names(tmp_path):
    data = write(tmp_path, masks_of((0, 1), (0, 3, 255)))
    refused(open_folder, data, "values 0, 1, 3, 255", "255 may be", tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("sky\ntree\n\nroad\n house \n")
    dataset = open_folder(data)
    assert tuple(dataset.classes) == ("sky", "tree", "road", "house")
    assert "no pixel of road" in dataset.notes[0]
    np.testing.assert_array_equal(labels(dataset)[1], masks_of((0, 1), (0, 3, 255))[1])


def test_a_class_beyond_the_names_is_refused(tmp_path):
    data = write(tmp_path, masks_of((0, 1), (0, 2, 7)))
    (tmp_path / "classes.txt").write_text("sky\ntree\nroad\n")
    refused(open_folder, data, tmp_path / "masks/b.png", "values 7;", "3 classes", "0 to 2")


def test_names_may_be_more_than_a_mask_s_values_seem(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(100)))
    dataset = open_folder(write(tmp_path, masks_of(range(0, 100, 7), (0, 255))))
    assert len(dataset.classes) == 100
    assert np.array_equal(labels(dataset)[1], masks_of((0,), (0, 255))[1])


def test_two_names_are_of_a_binary_task(tmp_path):
    (tmp_path / "classes.txt").write_text("skin\nmole\n")
    dataset = open_folder(write(tmp_path, masks_of((0, 255))))
    assert tuple(dataset.classes) == ("skin", "mole")
    assert set(np.unique(labels(dataset)[0])) == {0, 1}


def test_names_of_colours(tmp_path):
    data = write(tmp_path, [np.array([[0, 0, 0], [0, 0, 9], [7, 0, 0]])[noise((4, 5), below=3)]])
    (tmp_path / "classes.txt").write_text("red\nblue\nnone\n")
    refused(open_folder, data, "3 colours", "3 classes", "'#000009 NAME'")
    (tmp_path / "classes.txt").write_text("#000000 none\n#070000: red\n#000009\tblue\n")
    dataset = open_folder(data)
    assert tuple(dataset.classes) == ("none", "red", "blue")
    np.testing.assert_array_equal(labels(dataset)[0], np.array([0, 2, 1])[noise((4, 5), below=3)])


@pytest.mark.parametrize("names", ["one\n", "", "a\nb\na\n", "\n".join(map(str, range(256)))])
def test_names_that_are_none_are_refused(tmp_path, names):
    data = write(tmp_path, masks_of((0, 1)))
    (tmp_path / "classes.txt").write_text(names)
    refused(open_folder, data, tmp_path / "classes.txt", "expected 2 to 255")


def test_two_scales_do_not_mix(tmp_path):
    data = write(tmp_path, masks_of((0,), (0, 1), (0, 255)))
    refused(open_folder, data, "b.png", "c.png", "0 and 1", "0 and 255")


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_class_are_refused(tmp_path, value):
    refused(open_folder, write(tmp_path, masks_of((value,), (value,))), "nothing to learn", value)
    rgb = np.full((4, 5, 3), [value, 0, 9])
    refused(open_folder, write(tmp_path, [rgb]), "1 colours", "nothing to learn")


def test_void_alone_is_no_second_class(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    refused(open_folder, write(tmp_path, masks_of((0, 255))), "classes.txt", "3 classes", "0, 255")


@PROPERTY
@given(
    names=st.sets(st.text("abcAB012-_ .é", min_size=1, max_size=6), min_size=3, max_size=9),
    suffix=st.sampled_from(["", "_mask"]),
    endings=st.tuples(*[st.sampled_from(["png", "tif", "bmp", "TIFF", "PNG"])] * 2),
    seed=st.integers(0, 99),
)
def test_pairs_are_matched_by_name(tmp_path_factory, names, suffix, endings, seed):
    names = sorted(name for name in names if not name.startswith(".") and name.strip() == name)
    names = [name for name in names if not name.endswith("_mask")]
    if len(names) < 3:
        return
    root = tmp_path_factory.mktemp("pairs")
    for i, name in enumerate(names):
        save(root / f"images/{name}.{endings[0]}", noise((3 + i, 4), seed=i + seed))
        save(
            root / f"masks/{name}{suffix}.{endings[1]}",
            (noise((3 + i, 4), seed=i) > 99) * np.uint8(255),
        )
    dataset = open_folder(config(root, (0.4, 0.3, 0.3)))
    assert dataset.channels == 1
    seen = []
    for split in dataset.splits.values():
        for k, name in enumerate(split.names):
            i = names.index(name)
            seen.append(name)
            np.testing.assert_array_equal(
                split[k]["image"][..., 0], noise((3 + i, 4), seed=i + seed)
            )
            np.testing.assert_array_equal(split[k]["label"], noise((3 + i, 4), seed=i) > 99)
            assert split.sizes[k] == (3 + i, 4)
    assert sorted(seen) == names


def test_each_image_is_tested_in_one_of_the_folds(tmp_path):
    write(tmp_path, [np.eye(4, dtype=np.uint8)] * 4)
    data, tested = config(tmp_path, (3, 0, 1)), ()
    for data.fold in range(4):
        tested += open_folder(data).splits["test"].names
    assert sorted(tested) == ["a", "b", "c", "d"]


def test_images_that_are_called_masks_have_masks_too(tmp_path):
    save(tmp_path / "images/a_mask.png", noise((4, 5)))
    save(tmp_path / "masks/a_mask.png", noise((4, 5), below=2))
    assert open_folder(config(tmp_path)).splits["train"].names == ("a",)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda r: (r / "masks/b.png").unlink(), ["images/b.png", "has no mask"]),
        (lambda r: (r / "images/b.png").unlink(), ["masks/b.png", "has no image"]),
        (lambda r: save(r / "masks/b.png", noise((5, 4))), ["masks/b.png", "5x4", "8x10"]),
        (lambda r: save(r / "images/b.jpg", noise((4, 5))), ["b.jpg", "b.png", "keep only one"]),
        (lambda r: save(r / "masks/b_mask.png", noise((4, 5))), ["b_mask.png", "b.png"]),
        (lambda r: save(r / "masks/b_GT.png", noise((4, 5))), ["b_GT.png", "no image", "'b'"]),
        (lambda r: (r / "images/b.png").write_text("hello"), ["images/b.png", "not a PNG"]),
        (lambda r: (r / "masks/b.png").write_bytes(b""), ["masks/b.png", "not a PNG"]),
        (lambda r: (r / "images/notes.txt").touch(), ["notes.txt", "PNG, JPEG"]),
        (lambda r: (r / "images/more").mkdir(), ["images/more", "PNG, JPEG"]),
        (lambda r: save(r / "masks/b.png", noise((8, 10)), format="JPEG"), ["JPEG"]),
    ],
)
def test_bad_input_gets_one_line(tmp_path, spoil, parts):
    data = write(tmp_path, masks_of((0, 1), (0, 1), (0, 1)))
    spoil(tmp_path)
    refused(open_folder, data, *parts)


def test_missing_and_empty_folders_are_named(tmp_path):
    refused(open_folder, config(tmp_path), tmp_path / "images", "no such", "--config.data.root")
    (tmp_path / "images").mkdir()
    refused(open_folder, config(tmp_path), tmp_path / "images", "is empty")
    save(tmp_path / "images/a.png", noise((4, 5)))
    refused(open_folder, config(tmp_path), tmp_path / "masks", "no such folder")


def test_a_turned_image_is_refused(tmp_path):
    data = write(tmp_path, masks_of((0, 1)))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: the sizes agree
    (tmp_path / "images/a.png").unlink()
    save(tmp_path / "images/a.jpg", noise((8, 10, 3)), exif=exif)
    refused(open_folder, data, "images/a.jpg", "EXIF orientation 3", "upright")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_sixteen_bits(tmp_path, ending):
    data = write(tmp_path, masks_of((0, 1)))
    (tmp_path / "images/a.png").unlink()
    save(tmp_path / f"images/a.{ending}", noise((8, 10), np.uint16))
    image = open_folder(data).splits["test"][0]["image"]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], noise((8, 10), np.uint16))
