"""What cannot be converted is one line that names the file; the rest is converted."""

import json
import os

import numpy as np
import pytest
from made_annotations import (
    NAMES,
    coco_content,
    collection,
    convert,
    corners_of,
    feature,
    labelme_file,
    result,
    shape,
    task,
    write_images,
    write_json,
)
from made_cases import SIDE, scene
from made_files import noise, save
from PIL import Image

SQUARE = corners_of((1, 1, 6, 6))
PERCENT = {"points": [[0, 0], [50, 0], [50, 50]]}
RLE = {"size": [SIDE, SIDE], "counts": [0, SIDE * SIDE]}


def annotation(**fields) -> dict:
    flat = [float(x) for corner in SQUARE for x in corner]
    return {"id": 5, "image_id": 1, "category_id": 7, "segmentation": [flat]} | fields


def rotated(root) -> None:
    image = Image.fromarray(scene(1)[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(root / f"{NAMES[1]}.png", exif=exif)


def another_size(root) -> None:
    save(root / f"{NAMES[1]}.png", noise((7, 9)))


def damaged(root) -> None:
    (root / f"{NAMES[1]}.png").write_bytes(b"no image")


def missing(root) -> None:
    (root / f"{NAMES[1]}.png").unlink()


def second(root) -> None:
    save(root / "images" / f"{NAMES[1]}.png", noise((SIDE, SIDE)))


# Labels of the second image (of COCO and Label Studio those that are in the file), what happens to
# its file, and parts of the line.
LABELME = {
    "type": ([shape("a", SQUARE, "star")], None, ["case01.json: shape 0", "shape_type 'star'"]),
    "points": ([shape("a", [[1, 2, 3]] * 3)], None, ["case01.json", "pairs of numbers"]),
    "infinite": ([shape("a", [[0, 0], [1, 1], [1e300, 0]])], None, ["infinite"]),
    "label": ([shape("", SQUARE)], None, ["''", "name of a class"]),
    "mask": ([shape("a", [[0, 0], [3, 3]], "mask", mask="AAAA")], None, ["case01.json"]),
    "missing": ([shape("a", SQUARE)], missing, ["case01.json", "'case01.png' is not in"]),
    "size": ([shape("a", SQUARE)], another_size, ["24x24", "9x7"]),
    "rotated": ([shape("a", SQUARE)], rotated, ["case01.png", "EXIF orientation 6"]),
    "damaged": ([shape("a", SQUARE)], damaged, ["case01.png", "damaged"]),
    "twice": ([shape("a", SQUARE)], second, ["case01.json", "may be", "--images"]),
}


def one_line(capsys, *parts) -> None:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("name", LABELME)
def test_an_image_that_cannot_be_converted_is_left_out(tmp_path, name, capsys):
    shapes, change, parts = LABELME[name]
    labelme_file(tmp_path, 0, [shape("a", SQUARE)])
    labelme_file(tmp_path, 1, [shape("a", SQUARE)])
    write_images(tmp_path)
    assert convert("labelme", tmp_path, tmp_path / "out") == 0
    assert len(list((tmp_path / "out").rglob("case01.png"))) == 2
    capsys.readouterr()
    labelme_file(tmp_path, 1, shapes)
    if change:
        (tmp_path / "case01.png").rename(tmp_path / "away")  # whatever else is linked to it
        (tmp_path / "case01.png").write_bytes((tmp_path / "away").read_bytes())
        change(tmp_path)
    fresh = tmp_path / "fresh"
    assert convert("labelme", tmp_path, fresh) == 1
    one_line(capsys, *parts)
    assert [path.name for path in (fresh / "masks").iterdir()] == ["case00.png"]
    assert [path.name for path in (fresh / "images").iterdir()] == ["case00.png"]
    # An earlier mask does not stay without notice.
    code = convert("labelme", tmp_path, tmp_path / "out")
    assert code == 2 or not list((tmp_path / "out").rglob("case01.*"))
    one_line(capsys, *parts)


COCO = {
    "category": (annotation(category_id=8), ["annotation 5", "no 8"]),
    "odd": (annotation(segmentation=[[1, 2, 3]]), ["annotation 5"]),
    "rle size": (annotation(segmentation=RLE | {"size": [3, 4]}), ["case01", "(3, 4)"]),
    "rle sum": (annotation(segmentation=RLE | {"counts": [5]}), ["case01", "5 pixels"]),
    "rle text": (annotation(segmentation=RLE | {"counts": "~~"}), ["case01", "'~'"]),
    "rle list": (annotation(segmentation=RLE | {"counts": None}), ["case01"]),
}


@pytest.mark.parametrize("name", COCO)
def test_an_annotation_of_coco_that_cannot_be_read(tmp_path, name, capsys):
    entry, parts = COCO[name]
    content = coco_content(annotations=[annotation(image_id=0), entry])
    path = write_json(tmp_path / "a.json", content)
    write_images(tmp_path)
    assert convert("coco", path, tmp_path / "out") == 1
    one_line(capsys, str(path), *parts)
    assert len(list((tmp_path / "out/masks").iterdir())) == len(NAMES) - 1


LABEL_STUDIO = {
    "type": (result("magic", "a", PERCENT), {}, ["task 1", "result r1"]),
    "open": (result("polygonlabels", "a", {"points": [[1, 1]]}), {}, ["three points"]),
    "rotated": (result("polygonlabels", "a", PERCENT, image_rotation=90), {}, ["90 degrees"]),
    "labels": (result("polygonlabels", None, PERCENT), {}, ["0 labels"]),
    "brush": (result("brushlabels", "a", {"rle": [0, 0, 1]}), {}, ["case01", "truncated"]),
    "bytes": (result("brushlabels", "a", {"rle": [999]}), {}, ["case01"]),
    "size": (result("polygonlabels", "a", PERCENT, original_width=9), {}, ["9x24", "24x24"]),
    "image": (result("polygonlabels", "a", PERCENT), {"data": {"text": "x"}}, ["0 images"]),
    "missing": (
        result("polygonlabels", "a", PERCENT),
        {"data": {"image": "s3://bucket/other.png"}},
        ["'other.png' is not in"],
    ),
}


@pytest.mark.parametrize("name", LABEL_STUDIO)
def test_a_task_of_label_studio_that_cannot_be_read(tmp_path, name, capsys):
    entry, fields, parts = LABEL_STUDIO[name]
    tasks = [task(0, result("polygonlabels", "a", PERCENT)), task(1, entry, **fields)]
    path = write_json(tmp_path / "a.json", tasks)
    write_images(tmp_path)
    assert convert("label-studio", path, tmp_path / "out") == 1
    one_line(capsys, str(path), *parts)
    assert len(list((tmp_path / "out/masks").iterdir())) == 1


QUPATH = {
    "geometry": (feature("a", "Circle", []), ["feature 0", "'Circle'"]),
    "ring": (feature("a", "Polygon", [[1, 2]]), ["feature 0"]),
    "stack": (feature("a", "Polygon", [SQUARE], plane={"c": -1, "z": 3, "t": 0}), ["stack"]),
    "no feature": ({"type": "Feature"}, ["feature 0", "no 'geometry'"]),
}


@pytest.mark.parametrize("name", QUPATH)
def test_an_object_of_qupath_that_cannot_be_read(tmp_path, name, capsys):
    entry, parts = QUPATH[name]
    write_json(tmp_path / "case00.geojson", collection(feature("a", "Polygon", [SQUARE])))
    write_json(tmp_path / "case01.geojson", collection(entry))
    write_images(tmp_path)
    assert convert("qupath", tmp_path, tmp_path / "out") == 1
    one_line(capsys, "case01.geojson", *parts)


# Format, content of a.json, arguments, and parts of the line; nothing is written.
REFUSED = {
    "no json": ("coco", "{", [], ["a.json", "JSON"]),
    "no coco": ("coco", "{}", [], ["a.json", "no 'categories'"]),
    "a list": ("coco", "[1]", [], ["a.json", "COCO"]),
    "unknown image": ("coco", coco_content(annotations=[annotation(image_id=99)]), [], ["no 99"]),
    "no objects": ("coco", coco_content(), [], ["no object with an area"]),
    "minimal": ("label-studio", [{"image": "x", "label": []}], [], ["JSON-MIN"]),
    "no option": ("label-studio", [], ["--crowd=class"], ["--crowd", "label-studio"]),
    "no images": ("coco", coco_content(), ["--images=nowhere"], ["--images=nowhere"]),
    "no folder": ("objects", "", [], ["no folder in it has images/"]),
    "only faults": ("qupath", collection(), [], ["no object", "a.json", "'a.tif' is not in"]),
    "many classes": (
        "coco",
        coco_content(
            categories=[{"id": i, "name": f"c{i}"} for i in range(255)],
            annotations=[annotation()],
        ),
        [],
        ["255 classes", "254"],
    ),
    "one name": (
        "coco",
        coco_content(
            images=[
                {"id": i, "file_name": name, "height": SIDE, "width": SIDE}
                for i, name in enumerate(("case00.png", "CASE00.png"))
            ],
            annotations=[annotation()],
        ),
        [],
        ["two images", "'CASE00'"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_the_format_is_refused(tmp_path, name, capsys):
    form, content, arguments, parts = REFUSED[name]
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "a.json").write_text(text)
    write_images(tmp_path)
    save(tmp_path / "CASE00.png", noise((SIDE, SIDE)))
    assert convert(form, tmp_path, tmp_path / "out", *arguments) == 2
    one_line(capsys, *parts)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused_and_left_unchanged(tmp_path, capsys):
    labelme_file(tmp_path / "a", 0, [shape("a", SQUARE)])
    labelme_file(tmp_path / "b", 0, [shape("b", SQUARE)])
    for root in ("a", "b"):
        write_images(tmp_path / root)
    assert convert("labelme", tmp_path / "a", tmp_path / "a") == 2
    one_line(capsys, "exists and is not a folder that this command made")
    out = tmp_path / "out"
    assert convert("labelme", tmp_path / "a", out) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert convert("labelme", tmp_path / "b", out) == 2
    one_line(capsys, str(out), "other annotations")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    save(out / "masks/more.png", noise((3, 3)))
    assert convert("labelme", tmp_path / "a", out) == 2
    one_line(capsys, "more.png", "not of these annotations")


def test_without_hard_links_images_are_copied_and_nothing_is_left_half_written(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    labelme_file(tmp_path, 0, [shape("a", SQUARE)])
    write_images(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".prepared.json.1.tmp").touch()  # a call was killed while it wrote this file
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr("shutil.copyfile", lambda source, target: refuse(target.write_bytes(b"x")))
        assert convert("labelme", tmp_path, out) == 2
    one_line(capsys, "not permitted")
    assert not list((out / "images").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert convert("labelme", tmp_path, out) == 0
    (copy,) = (out / "images").iterdir()
    assert copy.read_bytes() == (tmp_path / "case00.png").read_bytes()
    assert not copy.samefile(tmp_path / "case00.png")
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), scene(0)[0])
