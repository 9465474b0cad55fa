"""Tests of the pictures that unet_jax.reporting.figures makes for a page."""

import numpy as np
import pytest

from unet_jax.reporting.overlays import HATCH, Overlay, class_colours, displayed, legend, panels

VERMILION, BLUE, YELLOW = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0xF0, 0xE4, 0x42)


def overlay_of(label, prediction, image=None) -> Overlay:
    label, prediction = np.array(label, np.uint8), np.array(prediction, np.uint8)
    image = np.full((*label.shape, 1), 255, np.uint8) if image is None else image
    return Overlay("a", "best: a", image, label, prediction)


def nearest(pixel, *colours) -> int:
    return int(np.abs(np.array(colours) - pixel).sum(-1).argmin())


def test_panels_of_two_classes_show_image_outline_and_errors():
    label = np.zeros((8, 8), np.uint8)
    label[2:6, 2:6] = 1
    label[0] = 255
    prediction = np.roll(label % 255, 1, axis=1)
    shown = panels(overlay_of(label, prediction), ["off", "on"], 8)
    assert list(shown) == ["image", "label: outline of on", "errors in on"]
    image, outline, errors = shown.values()
    assert all(p.shape == (8, 8, 3) and p.dtype == np.uint8 for p in shown.values())
    assert (image == 255).all()
    yellow = (outline == YELLOW).all(-1)
    assert yellow[2, 2] and yellow[1, 3] and not yellow[3:5, 3:5].any()
    assert not yellow[0].any() and not yellow[7].any()
    grey, seen = (255,) * 3, (VERMILION, BLUE)
    assert [nearest(errors[3, x], grey, *seen) for x in range(1, 8)] == [0, 2, 0, 0, 0, 1, 0]
    assert (errors[0] != 255).all()  # hatched


def test_panels_of_more_classes_show_both_and_every_wrong_pixel():
    label = [[0, 1, 2, 255], [0, 0, 2, 255]]
    prediction = [[0, 2, 2, 1], [1, 0, 2, 0]]
    shown = panels(overlay_of(label, prediction), ["a", "b", "c"], 8)
    assert list(shown) == ["image", "label", "prediction", "wrong pixels"]
    np.testing.assert_array_equal(shown["label"], class_colours(np.array(label, np.uint8)))
    np.testing.assert_array_equal(shown["prediction"], class_colours(np.array(prediction)))
    wrong = shown["wrong pixels"]
    red = [[nearest(wrong[y, x], (255,) * 3, VERMILION) for x in range(3)] for y in range(2)]
    assert red == [[0, 1, 0], [1, 0, 0]]
    assert {tuple(wrong[y, 3]) for y in range(2)} <= {(0x6E,) * 3, (0xB4,) * 3}


@pytest.mark.parametrize("classes", [2, 3])
def test_large_panels_shrink_and_lose_no_thin_error(classes):
    label = np.zeros((101, 60), np.uint8)
    prediction = label.copy()
    prediction[50, :] = 1  # a line that every third row would miss
    image = np.full((101, 60, 3), 100, np.uint8)
    image[:, 1::3] = 160
    shown = panels(overlay_of(label, prediction, image), list("abc")[:classes], 40)
    assert {p.shape for p in shown.values()} == {(34, 20, 3)}
    assert (shown["image"] == 120).all()
    errors = list(shown.values())[-1].astype(int)
    rows = np.flatnonzero((errors[..., 0] - errors[..., 2]).max(1) > 30)
    assert rows.tolist() == [16]


def test_the_legend_names_what_is_there():
    label, prediction = [[0, 255]], [[2, 1]]
    many = legend([overlay_of(label, prediction)], ["a", "b", "c"])
    assert list(many) == ["a", "b", "c", "ignored, counted nowhere"]
    assert many["a"] == ("#000000",) and many["ignored, counted nowhere"] == HATCH
    assert list(legend([overlay_of([[0]], [[2]])], ["a", "b", "c"])) == ["a", "c"]
    two = legend([overlay_of([[0]], [[0]])], ["off", "on"])
    assert list(two) == ["outline of on in the label", "off taken for on (FP)", "on missed (FN)"]
    assert [c[0].lower() for c in two.values()] == ["#f0e442", "#d55e00", "#0072b2"]
    assert legend([], ["off", "on"]) == {}


def test_any_number_of_channels_of_any_type_is_shown():
    pixels = np.arange(2 * 3 * 6, dtype=np.uint8).reshape(2, 3, 6)
    np.testing.assert_array_equal(displayed(pixels[..., :1]), pixels[..., [0, 0, 0]])
    np.testing.assert_array_equal(displayed(pixels[..., :2]), pixels[..., [1, 0, 1]])
    for count in (3, 4, 6):
        np.testing.assert_array_equal(displayed(pixels[..., :count]), pixels[..., :3])
    for dtype in (np.uint16, np.int16, np.float32):
        shown = displayed((pixels[..., [0, 1, 2, 5]].astype(dtype) - 3) / dtype(1))
        assert (shown.dtype, shown.min(), shown.max()) == (np.uint8, 0, 255)
    assert not displayed(np.full((2, 3, 1), 0.5, np.float32)).any()
