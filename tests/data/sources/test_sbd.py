"""Tests of preparing VOC and SBD, on small files in the published layout."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.io
from made_files import noise, save
from made_mats import gtcls, write_mat
from made_sbd import (
    ALL,
    SBD_TRAIN,
    SBD_VAL,
    SIZES,
    VOC_TRAIN,
    VOC_VAL,
    dataset,
    home,
    made,
    mask,
    mat,
    trainaug,
    write_list,
    write_lists,
)
from ml_collections import ConfigDict
from PIL import Image

from unet_jax import prepare
from unet_jax.data.sources import sbd
from unet_jax.data.sources.voc import open_voc

ROOT = pathlib.Path(__file__).parents[3]
TRAINAUG = ["2007_01", "2007_02", "2009_01", "2009_02", "2010_01"]
COLOURS = """
    000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080
    c00080 408080 c08080 004000 804000 00c000 80c000 004080
""".split()  # colours of background, aeroplane, ..., tvmonitor


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    palette = noise((256, 3))
    for name in ALL:
        save(home(tmp_path) / f"JPEGImages/{name}.jpg", noise((*SIZES[name], 3)))
    for name in (*VOC_TRAIN, *VOC_VAL):
        save(home(tmp_path) / f"SegmentationClass/{name}.png", mask(name, "voc"), palette)
    for i, name in enumerate((*SBD_TRAIN, *SBD_VAL)):
        write_mat(mat(tmp_path, name), mask(name, "sbd"), compressed=i % 2 == 0)
    write_lists(tmp_path, VOC_TRAIN, VOC_VAL, SBD_TRAIN, SBD_VAL)
    return tmp_path


def run(root, *arguments) -> int:
    return prepare.main(["voc", f"--root={root}", "--workers=2", *arguments])


def source(name) -> str:
    return "sbd" if name in (*SBD_TRAIN, *SBD_VAL) else "voc"


def test_all_masks_are_made_and_listed(root, capsys):
    assert run(root) == 0
    output = capsys.readouterr().out
    assert "7 of 7 masks to make" in output
    assert "5 ids" in output
    folder = home(root) / "SegmentationClassAug"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in ALL]
    for name in ALL:  # SBD's mask if there is one
        with Image.open(made(root, name)) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), mask(name, source(name)))
    assert trainaug(root) == TRAINAUG
    assert not list(home(root).glob("*.txt"))

    data = {
        "root": str(root),
        "split": (5, 0),
        "split_seed": 0,
        "fold": 0,
        "train_list": "trainaug",
    }
    opened = open_voc(ConfigDict({**data, "download": False}))
    assert opened.splits["train"].names == tuple(TRAINAUG)
    for example, name in zip(opened.splits["train"], TRAINAUG, strict=False):
        np.testing.assert_array_equal(example["label"], mask(name, source(name)))
    assert opened.splits["test"].names == tuple(VOC_VAL)
    np.testing.assert_array_equal(opened.splits["test"][0]["label"], mask(VOC_VAL[0], "voc"))


def test_the_palette_is_pascal_s(root):
    assert run(root) == 0
    with Image.open(made(root, "2007_02")) as image:
        palette = np.reshape(image.getpalette(), (256, 3))
    assert [bytes(colour).hex() for colour in palette[:21].astype(np.uint8)] == COLOURS
    assert bytes(palette[255].astype(np.uint8)).hex() == "e0e0c0"


def test_a_second_run_writes_nothing(root, capsys):
    def state():
        return {path: path.stat().st_mtime_ns for path in [*root.rglob("*"), root]}

    assert run(root) == 0
    before = state()
    assert run(root) == 0
    assert state() == before
    assert "0 of 7 masks to make" in capsys.readouterr().out


def test_missing_masks_are_made_and_the_others_are_kept(root):
    assert run(root) == 0
    made(root, "2009_01").unlink()
    made(root, "2010_01").write_bytes(b"mine")
    (home(root) / "ImageSets/Segmentation/trainaug.txt").write_text("2007_01\n")
    assert run(root) == 0
    assert made(root, "2009_01").exists()
    assert made(root, "2010_01").read_bytes() == b"mine"
    assert trainaug(root) == TRAINAUG


@pytest.mark.slow
def test_a_killed_run_resumes(root, tmp_path_factory):
    names = [f"2011_{i:03}" for i in range(800)]
    image, content = home(root) / "JPEGImages/2009_01.jpg", mat(root, "2009_01")
    for name in names:
        os.link(image, image.with_stem(name))
        os.link(content, content.with_stem(name))
    write_list(dataset(root) / "val.txt", [*SBD_VAL, *names])
    without_jax = tmp_path_factory.mktemp("imports")
    (without_jax / "jax.py").write_text("raise ImportError('not needed')")
    command = [sys.executable, "-m", "unet_jax.prepare", "voc", f"--root={root}", "--workers=2"]
    environment = {**os.environ, "PYTHONPATH": str(without_jax)}
    folder = home(root) / "SegmentationClassAug"
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (folder / "2011_020.png").exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (home(root) / "ImageSets/Segmentation/trainaug.txt").exists()
    left = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert 20 < len(left) < len(names)
    for path in left:
        Image.open(path).load()  # no mask is truncated
    assert run(root) == 0
    assert left == {path: path.stat().st_mtime_ns for path in left}
    assert len(list(folder.glob("*.png"))) == len(ALL) + len(names)
    assert trainaug(root) == sorted([*TRAINAUG, *names])


def saved(**variables) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def segmentation(name, value) -> bytes:
    return saved(GTcls=gtcls(np.full(SIZES[name], value)))


def cell(value) -> np.ndarray:
    array = np.empty((1, 1), object)
    array[0, 0] = value
    return array


GOOD = segmentation("2009_01", np.uint8(7))
FAULTS = {
    "zero bytes": (b"", "not a MATLAB 5 file"),
    "text": (b"<html>404 Not Found</html>" * 20, "not a MATLAB 5 file"),
    "pickle": (b"\x80\x04" + b"cos\nsystem\n" * 20, "not a MATLAB 5 file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "MATLAB 7.3 files are HDF5"),
    "MATLAB 7.3": (
        GOOD[:124] + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n\x1a\n",
        "MATLAB 7.3 files are HDF5",
    ),
    "truncated": (GOOD[:-100], "is truncated"),
    "header alone": (GOOD[:128], "no struct GTcls"),
    "another variable": (saved(GTinst=gtcls(np.ones((3, 4), np.uint8))), "no struct GTcls"),
    "no struct": (saved(GTcls=np.ones((3, 4), np.uint8)), "no struct GTcls"),
    "a cell": (saved(GTcls=cell(np.ones((3, 4), np.uint8))), "no struct GTcls"),
    "no field": (saved(GTcls={"CategoriesPresent": 1.0}), "Segmentation"),
    "an empty struct": (saved(GTcls={}), "Segmentation"),
    "float64": (segmentation("2009_01", np.float64(7)), "its class is 6"),
    "int16": (segmentation("2009_01", np.int16(7)), "its class is 10"),
    "logical": (segmentation("2009_01", np.True_), "uint8"),
    "complex": (segmentation("2009_01", np.complex128(7)), "uint8"),
    "text inside": (saved(GTcls={"Segmentation": "cat"}), "uint8"),
    "a cell inside": (saved(GTcls={"Segmentation": cell(np.ones((3, 4), np.uint8))}), "uint8"),
    "three axes": (saved(GTcls={"Segmentation": np.ones((3, 4, 2), np.uint8)}), "2 axes"),
    "another size": (saved(GTcls=gtcls(np.ones((10, 9), np.uint8))), "10x9, but"),
    "value 21": (segmentation("2009_01", np.uint8(21)), "values 21; expected class ids 0 to 20"),
    "value 254": (segmentation("2009_01", np.uint8(254)), "values 254; expected"),
}


@pytest.mark.parametrize(("content", "reason"), FAULTS.values(), ids=FAULTS)
def test_an_invalid_mat_file_is_reported_and_the_others_are_used(root, capsys, content, reason):
    path = mat(root, "2009_01")
    path.write_bytes(content)
    assert run(root) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{path}: ")
    assert reason in lines[0]
    assert lines[1].startswith("error: 1 of 7 masks")
    assert "SegmentationClassAug.faults.txt" in lines[1]
    fault_file = home(root) / "SegmentationClassAug.faults.txt"
    assert fault_file.read_text() == f"{lines[0]}\n"
    assert [name for name in ALL if not made(root, name).exists()] == ["2009_01"]
    assert trainaug(root) == [name for name in TRAINAUG if name != "2009_01"]

    write_mat(path, mask("2009_01", "sbd"))
    assert run(root) == 0
    assert not fault_file.exists()
    assert trainaug(root) == TRAINAUG
    np.testing.assert_array_equal(Image.open(made(root, "2009_01")), mask("2009_01", "sbd"))


def test_missing_files_of_images_are_reported(root, capsys):
    absent = [
        mat(root, "2007_01"),  # VOC's mask is no substitute: the fixed file would not be used
        mat(root, "2008_01"),  # not in trainaug
        home(root) / "SegmentationClass/2007_02.png",
        home(root) / "JPEGImages/2009_02.jpg",
    ]
    for path in absent:
        path.unlink()
    assert run(root) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    for path in absent:
        assert any(line.startswith(f"{path}: ") for line in lines), path
    assert "error: 4 of 7 masks" in lines[-1]
    assert trainaug(root) == ["2009_01", "2010_01"]
    assert sorted(p.stem for p in made(root, "").parent.glob("*.png")) == [
        "2008_02", "2009_01", "2010_01",
    ]  # fmt: skip


def test_an_invalid_mask_of_voc_is_reported(root, capsys):
    path = home(root) / "SegmentationClass/2007_02.png"
    values = mask("2007_02", "voc")
    values[1, 2] = 77
    save(path, values, noise((256, 3)))
    assert run(root) == 1
    assert f"{path}: values 77; expected" in capsys.readouterr().err
    assert "2007_02" not in trainaug(root)


def test_the_fault_file_lists_all_of_many_faults(root, capsys, monkeypatch):
    monkeypatch.setattr(sbd, "SHOWN", 2)
    for name in (*SBD_TRAIN, *SBD_VAL):
        mat(root, name).write_bytes(b"")
    assert run(root) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "error: 5 of 7 masks" in lines[-1]
    faults = (home(root) / "SegmentationClassAug.faults.txt").read_text().splitlines()
    assert lines[:3] == [*faults[:2], "..."]
    assert len(faults) == 5


def test_masks_in_no_list_are_made_too(root):
    save(home(root) / "JPEGImages/2011_01.jpg", noise((5, 6, 3)))
    write_mat(mat(root, "2011_01"), np.full((5, 6), 20, np.uint8))
    mat(root, "._2011_01").write_bytes(b"from macOS")
    assert run(root) == 0
    assert np.asarray(Image.open(made(root, "2011_01"))).min() == 20
    assert trainaug(root) == TRAINAUG


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ("VOC2012/JPEGImages", "VOCtrainval_11-May-2012.tar"),
        ("VOC2012/SegmentationClass", "VOCtrainval_11-May-2012.tar"),
        ("VOC2012/ImageSets/Segmentation/val.txt", "VOCtrainval_11-May-2012.tar"),
        ("VOCaug/dataset/cls", "benchmark.tgz"),
        ("VOCaug/dataset/val.txt", "benchmark.tgz"),
        ("VOCaug", "its benchmark_RELEASE is"),
    ],
)
def test_an_error_for_missing_data_says_how_to_get_it(root, capsys, part, hint):
    (root / "VOCdevkit" / part).rename(root / "away")
    assert run(root) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {root / 'VOCdevkit' / part}")
    assert ": no such" in lines[0]
    assert "--download" in lines[0]
    assert hint in lines[0]
    assert not made(root, "").parent.exists()


def test_missing_data_is_downloaded_if_requested(root, monkeypatch, capsys):
    asked = []

    def fetch(name, folder):
        asked.append((name, folder))
        if name == "sbd":
            (root / "away").rename(root / "VOCdevkit/VOCaug")

    monkeypatch.setattr("unet_jax.data.download.archives.fetch", fetch)
    (root / "VOCdevkit/VOCaug").rename(root / "away")
    assert run(root) == 2
    assert asked == []
    assert run(root, "--download") == 0
    assert asked == [("voc", root), ("sbd", root)]
    assert trainaug(root) == TRAINAUG


@pytest.mark.parametrize(
    "content", ["", "\n", "/JPEGImages/2007_01.jpg /SegmentationClass/x.png\n"]
)
def test_lists_must_contain_only_ids(root, capsys, content):
    path = dataset(root) / "val.txt"
    path.write_text(content)
    assert run(root) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def test_a_full_disk_is_reported_in_one_line(root, capsys, monkeypatch):
    def write_all(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sbd, "write_all", write_all)
    assert run(root) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device; free disk space" in lines[0]


def test_an_interrupted_run_says_how_to_resume_it(root, capsys, monkeypatch):
    begun = []

    def make_mask(source, *_):
        begun.append(source)
        time.sleep(0.1)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sbd, "make_mask", make_mask)
    monkeypatch.setattr(sbd, "track", stop)
    assert run(root) == 75
    assert "rerunning the command resumes it" in capsys.readouterr().out
    assert len(begun) < 5


def test_the_help_lists_the_data_sets_and_what_is_made(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    output = capsys.readouterr().out
    assert "  labels " in output and "  voc " in output
    with pytest.raises(SystemExit):
        prepare.main(["voc", "--help"])
    assert "SegmentationClassAug/ID.png" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        prepare.main(["isbi", "--root=x"])
    assert error.value.code == 2


def test_fewer_than_one_worker_is_refused(root, capsys):
    with pytest.raises(SystemExit) as error:
        run(root, "--workers=0")
    assert error.value.code == 2


def test_the_published_list(real_data, tmp_path):
    """Uses 11,355 ids of SBD and VOC's 1,464 + 1,449, which overlap as the published ones do."""
    lists = real_data / "voc" / "lists"
    expected, val = ((lists / f"{x}.txt").read_text().split() for x in ("train_aug", "val"))
    assert (len(expected), len(val)) == (10582, 1449)
    shuffled = [expected[i] for i in np.random.default_rng(0).permutation(len(expected))]
    train, others = shuffled[:1464], shuffled[1464:]
    ids = [*others, *train[:1100], *val[:1137]]
    ids = [ids[i] for i in np.random.default_rng(1).permutation(len(ids))]
    assert len(ids) == 8498 + 2857
    write_lists(tmp_path, train, val, ids[:8498], ids[8498:])
    sources, ids = sbd.plan_voc(tmp_path)
    assert ids == sorted(expected)
    assert len(sources) == 12031
    assert sum(path.suffix == ".png" for path in sources.values()) == 12031 - 11355
    development = (real_data / "voc/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").read_text()
    assert set(development.split()) <= set(expected)
