"""Paths, lists and masks of small VOC and SBD data sets in the published layout."""

import pathlib

import numpy as np

# Ids by list: VOC's train and val, SBD's train and val, in both data sets and in only one.
VOC_TRAIN, VOC_VAL = ["2007_01", "2007_02"], ["2008_01", "2008_02"]


SBD_TRAIN, SBD_VAL = ["2009_01", "2007_01", "2008_01"], ["2009_02", "2010_01"]


ALL = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})


SIZES = {name: (7 + i, 12 - i) for i, name in enumerate(ALL)}


def mask(name: str, source: str) -> np.ndarray:
    """Returns class ids; VOC's masks also have void pixels."""
    values = np.r_[np.arange(21), 255] if source == "voc" else np.arange(21)
    seed = [ALL.index(name), len(source)]
    return np.random.default_rng(seed).choice(values, SIZES[name]).astype(np.uint8)


def write_list(path, ids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids))


def home(root) -> pathlib.Path:
    return root / "VOCdevkit" / "VOC2012"


def dataset(root) -> pathlib.Path:
    return root / "VOCdevkit" / "VOCaug" / "dataset"


def mat(root, name) -> pathlib.Path:
    return dataset(root) / "cls" / f"{name}.mat"


def made(root, name) -> pathlib.Path:
    return home(root) / "SegmentationClassAug" / f"{name}.png"


def trainaug(root) -> list[str]:
    return (home(root) / "ImageSets/Segmentation/trainaug.txt").read_text().splitlines()


def write_lists(root, voc_train, voc_val, sbd_train, sbd_val) -> None:
    for name, ids in (("train", voc_train), ("val", voc_val)):
        write_list(home(root) / f"ImageSets/Segmentation/{name}.txt", ids)
    for name, ids in (("train", sbd_train), ("val", sbd_val)):
        write_list(dataset(root) / f"{name}.txt", ids)
