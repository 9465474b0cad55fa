"""Labels of each tool become a folder whose images, masks and classes are right."""

import numpy as np
import pytest
from made_annotations import (
    NAMES,
    box_of,
    brush,
    coco_content,
    collection,
    compressed,
    convert,
    corners_of,
    feature,
    labelme_file,
    png_text,
    result,
    runs,
    shape,
    task,
    write_images,
    write_json,
)
from made_cases import PAIRS, SIDE, scene
from made_files import save
from PIL import Image

from configs import folder as folder_config
from unet_jax.data import open_dataset
from unet_jax.data.files.masks import read_mask


def box_mask(i: int) -> np.ndarray:
    """Class 1 in the box around the scene's disk, 2 in the disk."""
    classes = scene(i)[1]
    left, top, right, bottom = box_of(classes > 1)
    mask = (classes > 0).astype(np.uint8)
    mask[top:bottom, left:right] = 2
    return mask


def coco_rle(mask: np.ndarray, is_text: bool = False) -> dict:
    counts = runs(mask.ravel(order="F"))
    return {"size": list(mask.shape), "counts": compressed(counts) if is_text else counts}


def labelme(root):
    for i in range(PAIRS):
        classes = scene(i)[1]
        left, top, right, bottom = box_of(classes > 1)
        outer = box_of(classes > 0)
        mask = (classes > 0)[outer[1] : outer[3], outer[0] : outer[2]].astype(np.uint8)
        of_mask = [[outer[0], outer[1]], [int(outer[2]) - 1, outer[3] - 1]]
        of_mask = [[int(x), int(y)] for x, y in of_mask]
        rectangle = [[int(right), bottom], [left, top]]  # drawn from its last corner
        labelme_file(
            root,
            i,
            [
                shape("disk", of_mask, "mask", mask=png_text(mask * 255)),
                shape("inner", rectangle, "rectangle"),
                shape("inner", [[1, 1], [9, 9]], "line"),
            ],
        )
    write_images(root)


def coco(root):
    content = coco_content(categories=[{"id": 9, "name": "inner"}, {"id": 4, "name": "disk"}])
    for i in range(PAIRS):
        classes = scene(i)[1]
        corners = [float(x) for corner in corners_of(box_of(classes > 1)) for x in corner]
        content["annotations"] += [
            {"id": 2 * i, "image_id": i, "category_id": 4, "iscrowd": i % 3 == 0,
             "segmentation": coco_rle(classes > 0, is_text=i % 2 == 0)},
            {"id": 2 * i + 1, "image_id": i, "category_id": 9, "segmentation": [corners]},
        ]  # fmt: skip
    write_json(root / "labels.json", content)
    write_images(root / "images")


def qupath(root):
    for i, name in enumerate(NAMES):
        mask, features = box_mask(i), []
        # Rows of the ring as polygons, with a hole where the box is.
        for row in np.flatnonzero((mask > 0).any(axis=1)).tolist():
            columns = np.flatnonzero(mask[row] > 0)
            rings = [corners_of((int(columns[0]), row, int(columns[-1]) + 1, row + 1))]
            if len(inner := np.flatnonzero(mask[row] == 2)):
                rings.append(corners_of((int(inner[0]), row, int(inner[-1]) + 1, row + 1)))
            features.append(feature("disk", "Polygon", rings))
        box = corners_of(tuple(map(int, box_of(mask == 2))))
        far = [[-9, -9], [-5, -9], [-5, -5]]
        features.append(feature("inner", "MultiPolygon", [[[*box, box[0]]], [far]]))
        features.append(feature(None, "Polygon", [[[0, 0], [9, 0], [9, 9]]]))
        write_json(root / f"{name}.geojson", collection(*features))
    write_images(root / "images")


def label_studio(root):
    tasks = []
    for i in range(PAIRS):
        classes = scene(i)[1]
        rle = list(brush(np.repeat((classes > 0).ravel().astype(np.uint8) * 255, 4)))
        left, top, right, bottom = (100 * float(x) / SIDE for x in box_of(classes > 1))
        # Rotated by 90 degrees around its upper right corner.
        rectangle = {"x": right, "y": top, "width": bottom - top, "height": right - left}
        polygon = {"points": [[left, top], [right, top], [right, bottom], [left, bottom]]}
        inner = (
            result("rectanglelabels", "inner", rectangle | {"rotation": 90})
            if i % 2
            else result("polygonlabels", "inner", polygon)
        )
        brushed = result("brushlabels", "disk", {"format": "rle", "rle": rle})
        tasks.append(task(i, brushed, inner, result("choices", None, {"choices": ["good"]})))
    write_json(root / "project-1.json", tasks)
    write_images(root / "images")


MAKERS = {"labelme": labelme, "coco": coco, "qupath": qupath, "label-studio": label_studio}


@pytest.mark.parametrize("form", MAKERS)
def test_pixels_and_labels_are_right(tmp_path, form, capsys):
    root, output = tmp_path / "root", tmp_path / "out"
    MAKERS[form](root)
    assert convert(form, root, output) == 0, capsys.readouterr().err
    config = folder_config.get_config().data
    config.root = str(output)
    dataset = open_dataset(config)
    assert dataset.classes == ("background", "disk", "inner")
    seen = []
    for split in dataset.splits.values():
        for k, name in enumerate(split.names):
            i = NAMES.index(name)
            np.testing.assert_array_equal(split[k]["image"][..., 0], scene(i)[0])
            np.testing.assert_array_equal(split[k]["label"], box_mask(i))
            seen.append(i)
    assert sorted(seen) == [*range(PAIRS)]
    for path in (output / "images").iterdir():
        (original,) = root.rglob(path.name)
        assert path.samefile(original)  # no pixel is encoded again, and no disk space used
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*/*")}
    assert convert(form, root, output) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*/*")} == before


def test_one_mask_per_object(tmp_path):
    for i, name in enumerate(NAMES):
        image, classes = scene(i)
        save(tmp_path / f"root/{name}/images/{name}.png", image)
        for part, half in enumerate((np.arange(SIDE) < 12, np.arange(SIDE) >= 12)):
            mask = ((classes > 0) & half).astype(np.uint8) * 255
            save(tmp_path / f"root/{name}/masks/object{part}.png", mask)
    output = tmp_path / "root" / "out"  # in the root, and not taken for an image in a rerun
    for _ in range(2):
        assert convert("objects", tmp_path / "root", output) == 0
    for i, name in enumerate(NAMES):
        mask = read_mask(output / f"masks/{name}.png")
        halves = 1 + (np.arange(SIDE) >= 12)
        np.testing.assert_array_equal(mask, (scene(i)[1] > 0) * halves)
    assert (output / "classes.txt").read_text() == "0 background\n* object\n"


def masks_of(tmp_path, form, *arguments) -> dict[str, np.ndarray]:
    assert convert(form, tmp_path, tmp_path / "out", *arguments) == 0
    return {path.stem: read_mask(path) for path in sorted((tmp_path / "out/masks").iterdir())}


def test_later_areas_cover_earlier_ones_and_some_labels_have_a_meaning(tmp_path, capsys):
    corners = corners_of((2, 2, 9, 9))
    circle = [[5.5, 5.5], [5.5, 8]]
    shapes = [
        shape("b", corners),
        shape("__ignore__", corners_of((2, 2, 9, 4))),
        shape("a", circle, "circle"),
        shape("_background_", [[5, 5], [6, 6]], "rectangle"),
        shape("a", [[1, 1], [2, 2]]),
    ]
    labelme_file(tmp_path, 0, shapes)
    labelme_file(tmp_path, 1, [])
    write_images(tmp_path)
    masks = masks_of(tmp_path, "labelme")
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[2:9, 2:9] = 2
    expected[2:4, 2:9] = 255
    expected[np.hypot(x - 5.5, y - 5.5) < 2.5] = 1
    expected[5, 5] = 0
    np.testing.assert_array_equal(masks["case00"], expected)
    assert not masks["case01"].any()
    notes = capsys.readouterr().out
    assert "0 = background, 1 = a, 2 = b, 255 = ignored" in notes
    assert "type polygon without an area are left out (1, first" in notes
    assert "without objects are background only (1, first" in notes
    assert "without a JSON file are left out (8, first" in notes


def test_an_embedded_image_is_written_as_it_is(tmp_path):
    encoded = png_text(scene(0)[0])
    path = labelme_file(tmp_path, 0, [shape("a", corners_of((0, 0, 5, 5)))], imageData=encoded)
    path.rename(tmp_path / "b.c.json")
    assert [*masks_of(tmp_path, "labelme")] == ["b.c"]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/images/b.c.png")), scene(0)[0]
    )


def test_paths_of_windows_and_of_another_computer_are_found(tmp_path):
    one = shape("a", corners_of((0, 0, 5, 5)))
    labelme_file(tmp_path / "labels", 0, [one], imagePath=r"..\pictures\case00.png")
    labelme_file(tmp_path / "labels", 1, [one], imagePath="/home/someone/case01.png")
    write_images(tmp_path / "pictures")
    pictures = f"--images={tmp_path / 'pictures'}"
    assert convert("labelme", tmp_path / "labels", tmp_path / "out", pictures) == 0
    assert len(list((tmp_path / "out/images").iterdir())) == 2


@pytest.mark.parametrize(("crowd", "value"), [("class", 2), ("ignored", 255)])
def test_crowds_are_of_their_class_or_ignored(tmp_path, crowd, value, capsys):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3:20, 5:9] = True
    square = [float(x) for corner in corners_of((5, 3, 9, 6)) for x in corner]
    content = coco_content()
    content["annotations"] = [
        {"id": 0, "image_id": 0, "category_id": 3, "segmentation": [square]},
        {"id": 1, "image_id": 0, "category_id": 7, "iscrowd": 1, "segmentation": coco_rle(mask)},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5], "segmentation": []},
    ]
    write_json(tmp_path / "a.json", content)
    write_images(tmp_path)
    expected = mask * np.uint8(value)
    if crowd == "ignored":  # an object is not ignored because a crowd surrounds it
        expected[3:6, 5:9] = 1
    masks = masks_of(tmp_path, "coco", f"--crowd={crowd}")
    np.testing.assert_array_equal(masks["case00"], expected)
    assert len(masks) == PAIRS
    notes = capsys.readouterr().out
    assert "crowds (iscrowd) are " in notes
    assert "without a segmentation are left out (1, first" in notes


def test_the_annotation_that_counts(tmp_path, capsys):
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]]}
    several = [
        {"result": [result("polygonlabels", name, square)], **fields}
        for name, fields in (
            ("a", {"ground_truth": True}),
            ("b", {}),
            ("c", {"was_cancelled": True}),
        )
    ]
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "rotation": 90}
    separate = [
        result("rectangle", None, {"x": 0, "y": 0, "width": 50, "height": 25}),
        result("labels", "b", {"x": 0, "y": 0, "width": 50, "height": 25}),
    ]
    tasks = [
        task(0, annotations=several),
        task(1, annotations=several[1:]),
        task(2, annotations=[]),
        task(3, result("ellipselabels", "a", ellipse)),
        task(4, *separate, data={"image": f"/data/local-files/?d=x/{NAMES[4]}.png", "n": 3}),
    ]
    write_json(tmp_path / "a.json", tasks)
    write_images(tmp_path)
    masks = masks_of(tmp_path, "label-studio")
    assert [*masks] == ["case00", "case01", "case03", "case04"]
    corner = np.pad(np.ones((12, 12), int), (0, 12))
    np.testing.assert_array_equal(masks["case00"], corner)
    np.testing.assert_array_equal(masks["case01"], 2 * corner)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    np.testing.assert_array_equal(masks["case03"], np.hypot((x - 12) / 3, (y - 12) / 6) < 1)
    assert (masks["case04"] == 2).sum() == 12 * 6
    notes = capsys.readouterr().out
    assert "tasks without an annotation are left out (1" in notes
    assert "regions without" not in notes


def test_ignored_and_derived_classes_of_qupath(tmp_path, capsys):
    whole = [corners_of((0, 0, SIDE, SIDE))]
    derived = feature(None, "Polygon", [corners_of((0, 0, 3, 3))])
    derived["properties"]["classification"] = {"names": ["Tumor", "Positive"]}
    content = [feature("Ignore*", "Polygon", whole), derived]  # as QuPath wrote it before 0.3
    write_json(tmp_path / "case00.png.json", content)
    write_images(tmp_path)
    (mask,) = masks_of(tmp_path, "qupath").values()
    assert (mask[:3, :3] == 1).all()
    assert (mask == 255).sum() == SIDE**2 - 9
    assert "images without a GeoJSON file are left out (9, first" in capsys.readouterr().out
    assert "1 Tumor: Positive\n" in (tmp_path / "out/classes.txt").read_text()
