"""The files that a prediction leaves, from probabilities in bands of any height."""

import contextlib
import tracemalloc

import numpy as np
import pytest
import tifffile
from made_files import noise, save
from PIL import Image

from unet_jax.data.files.masks import read_mask
from unet_jax.inference import mask_files, predicted_image
from unet_jax.inference.outputs import Extras, Outputs
from unet_jax.reporting.colours import palette
from unet_jax.reporting.overlays import painted

SIZE = (23, 17)
NAMES = ("none", "cell", "wall", "vessel", "fold")


def random(size, classes, seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).random((*size, classes), np.float32)
    return values if classes == 1 else values / values.sum(-1, keepdims=True)


def cut(values: np.ndarray, *heights: int):
    """Bands, each of which is overwritten when the next is asked for."""
    for band in np.split(values, np.cumsum(heights)):
        band = band.copy()
        yield band
        band[:] = np.nan


def make(tmp_path, source, sizes, classes, name="a", **kinds) -> Outputs:
    extras = Extras(**{"probabilities": True, "overlays": True} | kinds)
    options = {"channels": 3, "classes": NAMES[: max(2, classes)], "threshold": 0.3}
    return Outputs(tmp_path / "out", name, source, sizes, extras, **options)


def listed(folder) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("heights", [(), (4, 9), (1, 1, 20)])
def test_of_an_image_a_png_mask(tmp_path, classes, heights):
    values = random(SIZE, classes)
    image = noise((*SIZE, 3))
    out = make(tmp_path, save(tmp_path / "a.jpeg.bmp", image), [SIZE], classes)
    assert not out.exist()
    with out.opened():
        out.write(SIZE, cut(values, *heights))
    assert out.exist()
    assert listed(tmp_path / "out") == ["a.png", "overlays/a.png", "probabilities/a.tif"]
    ids = values[..., -1] > 0.3 if classes <= 2 else values.argmax(-1)
    mask = read_mask(tmp_path / "out/a.png")
    np.testing.assert_array_equal(mask, ids * (255 if classes < 3 else 1))
    with Image.open(tmp_path / "out/a.png") as file:
        assert file.mode == ("L" if classes < 3 else "P")
        shown = np.asarray(file.convert("RGB"))
    if classes > 2:
        np.testing.assert_array_equal(shown, palette()[ids])
    probabilities = tifffile.imread(tmp_path / "out/probabilities/a.tif")
    assert probabilities.dtype == np.float32
    expected = values[..., -1] if classes < 3 else np.moveaxis(values, -1, 0)
    np.testing.assert_array_equal(probabilities, expected)
    picture = np.asarray(Image.open(tmp_path / "out/overlays/a.png"))
    np.testing.assert_array_equal(picture, painted(image, ids.astype(np.uint8), max(2, classes)))


@pytest.mark.parametrize("classes", [1, 3])
def test_of_a_stack_a_stack(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(predicted_image, "STRIP", 5)
    sizes = [SIZE, SIZE, (7, 40)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for size in sizes:
            file.write(noise(size, np.uint16), photometric="minisblack")
    out = make(tmp_path, tmp_path / "a.tif", sizes, classes)
    stack = [random(size, classes, seed) for seed, size in enumerate(sizes)]
    with out.opened():
        for size, values in zip(sizes, stack, strict=True):
            out.write(size, cut(values, 4))
    with (
        tifffile.TiffFile(tmp_path / "out/a.tif") as file,
        tifffile.TiffFile(tmp_path / "out/probabilities/a.tif") as floats,
    ):
        assert len(file.pages) == len(floats.pages) == 3
        for values, page, plane in zip(stack, file.pages, floats.pages, strict=True):
            ids = (values[..., -1] > 0.3) * 255 if classes <= 2 else values.argmax(-1)
            np.testing.assert_array_equal(page.asarray(), ids)
            expected = values[..., 0] if classes == 1 else np.moveaxis(values, -1, 0)
            np.testing.assert_array_equal(plane.asarray(), expected)
            if classes == 3:
                np.testing.assert_array_equal(page.colormap.T // 257, palette())
    pictures = [tmp_path / f"out/overlays/a/{i:04d}.png" for i in range(3)]
    assert listed(tmp_path / "out/overlays") == [f"a/{path.name}" for path in pictures]
    for path, size, values in zip(pictures, sizes, stack, strict=True):
        ids = values[..., -1] > 0.3 if classes <= 2 else values.argmax(-1)
        expected = painted(noise(size, np.uint16)[..., None], ids.astype(np.uint8), max(2, classes))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)


def test_the_picture_of_a_large_image_is_decimated(tmp_path, monkeypatch):
    monkeypatch.setattr(predicted_image, "LONGEST_SIDE", 9)
    monkeypatch.setattr(predicted_image, "STRIP", 2)
    values, image = random(SIZE, 1), noise(SIZE)
    out = make(tmp_path, save(tmp_path / "a.png", image), [SIZE], 1)
    with out.opened():
        out.write(SIZE, cut(values, 4, 1, 1, 5))
    ids = (values[::3, ::3, 0] > 0.3).astype(np.uint8)
    expected = painted(image[::3, ::3, None], ids, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/overlays/a.png")), expected)


def test_only_what_is_asked_for_is_made(tmp_path):
    source = save(tmp_path / "a.tif", noise(SIZE))
    out = make(tmp_path, source, [SIZE], 1, probabilities=False, overlays=False)
    with out.opened():
        out.write(SIZE, cut(random(SIZE, 1)))
    assert listed(tmp_path / "out") == ["a.tif"]
    assert out.exist()
    assert not make(tmp_path, source, [SIZE], 1, probabilities=False).exist()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_what_is_not_finished_is_not_there(tmp_path, ending):
    sizes = [SIZE] if ending == "png" else [SIZE, SIZE]
    source = tmp_path / f"a.{ending}"
    if ending == "png":
        save(source, noise(SIZE))
    else:
        tifffile.imwrite(source, noise((2, *SIZE)), photometric="minisblack")
    out = make(tmp_path, source, sizes, 1)

    def breaks_off():
        yield random((4, 17), 1)
        assert len(listed(tmp_path / "out")) >= 1
        assert all("/." in f"/{name}" for name in listed(tmp_path / "out"))  # hidden
        raise InterruptedError

    with pytest.raises(InterruptedError), out.opened():
        if ending == "tif":
            out.write(SIZE, cut(random(SIZE, 1)))
        out.write(SIZE, breaks_off())
    assert listed(tmp_path / "out") == []
    # What a kill left is replaced, and so is what was there of a finished file.
    for left in [path for path in out.written if path.parent != tmp_path / "out"]:
        (left.mkdir() if ending == "tif" and "overlays" in str(left) else left.touch())
    with out.opened():
        for _ in sizes:
            out.write(SIZE, cut(random(SIZE, 1)))
    assert out.exist()
    assert not [name for name in listed(tmp_path / "out") if "/." in f"/{name}"]
    values = tifffile.imread(tmp_path / "out/probabilities/a.tif")
    np.testing.assert_array_equal(
        values, np.stack([random(SIZE, 1)[..., 0]] * len(sizes)).squeeze()
    )


@pytest.mark.parametrize("source", ["a.png", "a.tif"])
def test_temporary_names_are_short_and_each_path_has_its_own(tmp_path, source):
    """The longest name of a file has 255 bytes, and its mask the same number."""
    names = [letter * 251 for letter in "ab"]
    every = [make(tmp_path, tmp_path / source, [SIZE] * 2, 1, name).written for name in names]
    assert len({path for paths in every for path in paths}) == 2 * 3 * 2
    assert all(len(path.name) <= 255 for paths in every for path in paths)


def test_a_folder_in_the_place_of_a_file_is_kept(tmp_path):
    out = make(tmp_path, save(tmp_path / "a.png", noise(SIZE)), [SIZE], 1)
    kept = save(tmp_path / "out/overlays/a.png/mine.png", noise(SIZE))
    with pytest.raises(IsADirectoryError):
        out.exist()
    with pytest.raises(OSError, match="directory"), out.opened():
        out.write(SIZE, cut(random(SIZE, 1)))
    assert listed(tmp_path / "out") == ["overlays/a.png/mine.png"]
    assert kept.exists()


def test_pictures_of_another_input_in_the_folder_of_a_stack_are_kept(tmp_path):
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, noise((2, *SIZE)), photometric="minisblack")
    out = make(tmp_path, source, [SIZE, SIZE], 1)
    kept = save(tmp_path / "out/overlays/a/other.png", noise(SIZE))
    with pytest.raises(OSError, match="has other files too"), out.opened():
        for _ in range(2):
            out.write(SIZE, cut(random(SIZE, 1)))
    assert kept.exists()
    assert not (tmp_path / "out/a.tif").exists()


def test_a_link_in_the_place_of_an_output_is_replaced_not_followed(tmp_path):
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, noise((2, *SIZE)), photometric="minisblack")
    out = make(tmp_path, source, [SIZE, SIZE], 1)
    elsewhere = save(tmp_path / "elsewhere/0000.png", noise(SIZE))
    before = elsewhere.read_bytes()
    for path in out.written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(elsewhere.parent if "overlays" in str(path) else elsewhere)
    with out.opened():
        for _ in range(2):
            out.write(SIZE, cut(random(SIZE, 1)))
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert elsewhere.read_bytes() == before
    assert listed(tmp_path / "elsewhere") == ["0000.png"]


def test_large_files_have_offsets_of_64_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_files, "CLASSIC", 4 * 23 * 17 - 1)
    out = make(tmp_path, save(tmp_path / "a.tif", noise(SIZE)), [SIZE], 1)
    with out.opened():
        out.write(SIZE, cut(random(SIZE, 1)))
    for name, big in (("a.tif", False), ("probabilities/a.tif", True)):
        with tifffile.TiffFile(tmp_path / "out" / name) as file:
            assert file.is_bigtiff == big
            assert file.asarray().shape == SIZE


def test_an_outline_is_inside_its_class():
    ids = np.zeros((6, 8), np.uint8)
    ids[1:5, 2:7] = 2
    image = np.full((6, 8, 1), 100, np.uint8)
    picture = painted(image, ids, 3)
    colour = palette()[2]
    np.testing.assert_array_equal(picture[ids == 0], np.full((28, 3), 100))
    edge = np.zeros_like(ids)
    edge[1:5, 2:7], edge[2:4, 3:6] = 1, 0
    np.testing.assert_array_equal(picture[edge == 1], np.broadcast_to(colour, (14, 3)))
    np.testing.assert_array_equal(
        picture[2:4, 3:6], np.broadcast_to(np.rint(80 + colour * 0.2), (2, 3, 3))
    )


@pytest.mark.slow
def test_only_what_is_shown_of_a_large_mask_is_in_memory(tmp_path):
    size = (20_000, 2000)
    band = np.tile(random((50, 2000), 1), (2, 1, 1))
    save(tmp_path / "a.tif", noise((4, 4)))  # whose georeference the mask gets
    out = make(tmp_path, tmp_path / "a.tif", [size], 1, probabilities=False, overlays=False)
    tracemalloc.start()
    with out.opened():
        out.write(size, (band for _ in range(200)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000 * 2000 / 5
    with tifffile.TiffFile(tmp_path / "out/a.tif") as file:
        assert file.pages[0].shape == size


def test_what_was_written_of_a_file_takes_no_memory(tmp_path):
    """A prediction keeps the outputs of all of its files to the end."""
    size = (512, 512)
    source, values = save(tmp_path / "a.png", noise(size)), np.full((*size, 1), 0.7, np.float32)

    def written(name: str) -> Outputs:
        out = make(tmp_path, source, [size], 1, name, geojson=True, gallery=True)
        with contextlib.suppress(InterruptedError), out.opened():
            out.write(size, cut(values, 100))
            if name == "interrupted":
                raise InterruptedError
        return out

    written("first")  # imports what it needs
    tracemalloc.start()
    kept = [written(name) for name in ("second", "interrupted", "third")]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 3 and held < 512 * 512 / 2


@pytest.mark.parametrize("pixels", [1, 17 * 3, 17 * 7])
def test_a_wide_mask_is_written_and_drawn_in_lower_strips(tmp_path, monkeypatch, pixels):
    monkeypatch.setattr(predicted_image, "LONGEST_SIDE", 9)
    monkeypatch.setattr(predicted_image, "STRIP_PIXELS", pixels)
    values, image = random(SIZE, 1), noise(SIZE)
    out = make(tmp_path, save(tmp_path / "a.tif", image), [SIZE], 1)
    with out.opened():
        out.write(SIZE, cut(values, 4, 1, 1, 5))
    with tifffile.TiffFile(tmp_path / "out/a.tif") as file:
        assert file.pages[0].rowsperstrip == max(1, pixels // 17)
        np.testing.assert_array_equal(file.asarray(), (values[..., 0] > 0.3) * 255)
    ids = (values[::3, ::3, 0] > 0.3).astype(np.uint8)
    expected = painted(image[::3, ::3, None], ids, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/overlays/a.png")), expected)
