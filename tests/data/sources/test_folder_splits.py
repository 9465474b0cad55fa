"""Splits of a folder that lists or its own folders give."""

import codecs

import made_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cases import write_case
from made_files import refused

from configs import folder as folder_config
from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset

TABLE = (0, 255, 255)
NAMES = [f"case{i:02d}" for i in range(made_cases.PAIRS)]


def config(root, **options):
    data = folder_config.get_config().data
    data.root = str(root)
    data.update(options)
    return data


def with_lists(root, **lists):
    """The options of these lists, which are written into the folder: bytes, or lines."""
    for part, content in lists.items():
        text = content if isinstance(content, bytes) else "\n".join(content).encode()
        (root / f"{part}.txt").write_bytes(text)
    return config(root, **{f"{part}_list": f"{part}.txt" for part in lists})


def names_of(dataset) -> dict[str, list[str]]:
    return {part: list(split.names) for part, split in dataset.splits.items() if len(split)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    write_case(root, TABLE)
    return root


def test_lists_name_images_in_many_ways(folder):
    train = ["# by hand", "", "case03", "case01.png", "  images/case05.png", "./case07"]
    test = codecs.BOM_UTF8 + b"C:\\data\\images\\case02.png\r\n/elsewhere/case04\r\n"
    validation = "case09\ncase00".encode("utf-16")
    data = with_lists(folder, train=train, validation=validation, test=test)
    dataset = open_dataset(data)
    assert names_of(dataset) == {
        "train": ["case01", "case03", "case05", "case07"],
        "validation": ["case00", "case09"],
        "test": ["case02", "case04"],
    }
    notes = "\n".join(dataset.notes)
    assert "train.txt, validation.txt, test.txt" in notes
    assert "2 of 10 images are in no list and are not used" in notes
    data.train_list = str(folder / "train.txt")
    assert names_of(open_dataset(data)) == names_of(dataset)


def test_two_lists_are_enough(folder):
    dataset = open_dataset(with_lists(folder, train=NAMES[:4], validation=NAMES[4:]))
    assert names_of(dataset) == {"train": NAMES[:4], "validation": NAMES[4:]}
    assert "no test images" in "\n".join(dataset.notes)
    dataset = open_dataset(with_lists(folder, train=NAMES[:4], test=NAMES[4:]))
    assert "no validation images" in "\n".join(dataset.notes)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(share=st.floats(0.0, 0.5), seed=st.integers(0, 99), grouped=st.booleans())
def test_training_images_are_held_out_where_validation_lacks_them(folder, share, seed, grouped):
    data = with_lists(folder, train=NAMES[:8], test=NAMES[8:])
    data.update({"validation_share": share, "split_seed": seed})
    data.group = r"(case\d+)" if grouped else ""
    dataset = open_dataset(data)
    names, count = names_of(dataset), round(8 * share)
    held = names.get("validation", [])
    assert sorted(held + names["train"]) == NAMES[:8] and names["test"] == NAMES[8:]
    assert len(held) == count and held == sorted(held)
    notes = "\n".join(dataset.notes)
    assert (f"{count} of 8 training images are held out" in notes) == (count > 0)
    assert ("the last model is evaluated" in notes) == (count == 0)
    assert names_of(open_dataset(data)) == names
    given = with_lists(folder, train=NAMES[:8], validation=NAMES[8:])
    given.validation_share = share
    assert names_of(open_dataset(given)) == {"train": NAMES[:8], "validation": NAMES[8:]}


def test_groups_are_held_out_as_a_whole(tmp_path):
    names = [f"p{patient}_{i}" for patient in range(4) for i in range(2)]
    write_case(tmp_path, TABLE)
    for old, new in zip(NAMES, [*names, "t0_0", "t1_0"], strict=True):
        for path in [*tmp_path.rglob(f"{old}.*")]:
            path.rename(path.with_stem(new))
    data = with_lists(tmp_path, train=names, test=["t0_0", "t1_0"])
    data.update({"validation_share": 0.3, "group": r"^(\w\d)_"})
    dataset = open_dataset(data)
    held = names_of(dataset)["validation"]
    assert len(held) == 2 and len({name[:2] for name in held}) == 1
    assert "2 of 8 training images are held out" in "\n".join(dataset.notes)


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"train": ["case01", "", "case77"], "test": ["case02"]}, ["train.txt: line 3", "case77"]),
        ({"train": ["a.jpg"], "test": ["case02"]}, ["train.txt: line 1", "'a.jpg'", "nearest"]),
        (
            {"train": ["case01", "case02", "images/case01.png"], "test": ["case03"]},
            ["train.txt: line 3", "'case01'", "line 1 of train.txt"],
        ),
        (
            {"train": ["#", "case01"], "test": ["case03", "case01.png"]},
            ["test.txt: line 2", "'case01'", "line 2 of train.txt"],
        ),
        (
            {"train": ["case01"]},
            ["data.train_list=train.txt", "validation_list and data.test_list"],
        ),
        ({"test": ["case01"], "validation": ["case02"]}, ["data.test_list", "data.train_list and"]),
        ({"train": ["# nothing"], "test": ["case01"]}, ["train.txt: names no image"]),
        ({"train": b"case01\n\xff", "test": ["case02"]}, ["train.txt: line 2", "UTF-8"]),
    ],
)
def test_lists_that_are_wrong_get_one_line(folder, lists, parts):
    refused(open_dataset, with_lists(folder, **lists), *parts)


def test_lists_are_checked_as_given_folders_are(folder, tmp_path):
    data = with_lists(folder, train=NAMES[:4], test=NAMES[4:])
    refused(open_dataset, config(folder, **data_of(data), fold=2), "data.fold=2", "lists")
    refused(open_dataset, config(folder, **data_of(data), group="(case)"), "'case'", "train")
    open_dataset(config(folder, **data_of(data), group=r"(\d+)"))
    data.test_list = "gone.txt"
    refused(open_dataset, data, "data.test_list=gone.txt", folder / "gone.txt", "data.root")
    write_case(tmp_path, TABLE, parts=("train", "val"))
    refused(open_dataset, config(tmp_path, train_list="a"), "given splits (train/, val/)")


def data_of(data):
    return {key: data[key] for key in ("train_list", "validation_list", "test_list")}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(part_of=st.lists(st.integers(0, 3), min_size=10, max_size=10), suffix=st.booleans())
def test_every_image_is_in_the_split_of_its_list(folder, part_of, suffix):
    parts = ("train", "validation", "test")
    named = {part: [n for n, k in zip(NAMES, part_of, strict=True) if k == i]
             for i, part in enumerate(parts)}  # fmt: skip
    lists = {p: [n + ".png" * suffix for n in names[::-1]] for p, names in named.items() if names}
    data = with_lists(folder, **lists)
    if "train" in lists and len(lists) > 1:
        assert names_of(open_dataset(data)) == {part: named[part] for part in lists}
    elif lists:
        with pytest.raises(UserError, match="at least one of"):
            open_dataset(data)


def moved(root, **folders):
    """Ten pairs whose images and masks are in these folders, by part in turn."""
    write_case(root / "made", TABLE)
    for i, name in enumerate(NAMES):
        images, masks = [*folders.values()][i % len(folders)]
        for target, source in ((images, "images"), (masks, "masks")):
            (root / target).mkdir(parents=True, exist_ok=True)
            (root / "made" / source / f"{name}.png").rename(root / target / f"{name}.png")
    for rest in (root / "made/images", root / "made/masks", root / "made"):
        rest.rmdir()


@pytest.mark.parametrize(
    "folders",
    [
        {"train": ("images/train", "labels/train"), "test": ("images/test", "labels/test")},
        {
            "train": ("images/training", "masks/training"),
            "validation": ("images/val", "masks/valid"),
            "test": ("images/test", "masks/test"),
        },
        {
            "train": ("train", "trainannot"),
            "validation": ("val", "valannot"),
            "test": ("test", "testannot"),
        },
        {"train": ("Train", "Train_labels"), "validation": ("val", "val_masks")},
    ],
)
def test_folders_of_other_layouts_are_given_splits(tmp_path, folders):
    moved(tmp_path, **folders)
    dataset = open_dataset(config(tmp_path))
    assert names_of(dataset) == {part: NAMES[i :: len(folders)] for i, part in enumerate(folders)}
    assert f"{folders['train'][0]}/" in "\n".join(dataset.notes)
    assert dataset.splits["train"][0]["label"].max() == 1


def test_layouts_that_lack_something_get_one_line(tmp_path):
    moved(tmp_path / "a", train=("images/train", "masks/train"), test=("images/test", "masks/x"))
    refused(open_dataset, config(tmp_path / "a"), tmp_path / "a/masks/test", "no such")
    moved(tmp_path / "b", train=("images/train", "masks/train"))
    refused(open_dataset, config(tmp_path / "b"), "images/train/", "at least one of val/")
    moved(tmp_path / "c", train=("train", "trainannot"), test=("val", "valannot"))
    (tmp_path / "c/classes.txt").write_text("0 a\n")
    refused(open_dataset, config(tmp_path / "c"), tmp_path / "c/classes.txt")


def test_messages_name_the_classes_file_that_is_read(tmp_path):
    write_case(tmp_path, (0, 301, 302), dtype="uint16", parts=("train", "val"))
    refused(open_dataset, config(tmp_path), f"in {tmp_path / 'classes.txt'}")
