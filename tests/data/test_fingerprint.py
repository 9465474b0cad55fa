"""What a plan uses of a data set: shares, and how wide the objects of each class are."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax import IGNORED
from unet_jax.data import fingerprint as fingerprints
from unet_jax.data.dataset import Split
from unet_jax.data.fingerprint import fingerprint


def label_of(labels, index):
    return np.zeros((*labels[index].shape, 1), np.uint8), labels[index]


def split_of(*labels) -> Split:
    return Split(
        names=tuple(map(str, range(len(labels)))),
        sizes=tuple(label.shape for label in labels),
        read=functools.partial(label_of, labels),
    )


def strips(width: int, apart: int) -> np.ndarray:
    label = np.zeros((200, 400), np.uint8)
    for left in range(apart, 400 - width, width + apart):
        label[:, left : left + width] = 1
    return label


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(4, 60), st.integers(80, 100))
def test_the_width_of_strips_is_found(width, apart):
    found = fingerprint(split_of(strips(width, apart)), 2)
    assert found.widths[1] == pytest.approx(width, rel=0.1, abs=2.5)
    assert found.widths[0] > found.widths[1]


def test_a_large_disc_is_much_wider_than_a_line():
    rows, columns = np.indices((300, 300)) - 150
    disc = (rows**2 + columns**2 < 90**2).astype(np.uint8)
    found = fingerprint(split_of(disc), 2)
    assert found.widths[1] == pytest.approx(4 / 3 * 90, rel=0.05)


def test_ignored_pixels_count_for_no_class_and_end_no_object():
    label = strips(20, 90)
    some = label.copy()
    some[::3] = IGNORED
    whole, ignored = (fingerprint(split_of(x), 2) for x in (label, some))
    assert ignored.shares == pytest.approx(whole.shares, abs=0.01)
    assert ignored.widths == pytest.approx(whole.widths, rel=0.05)


def test_an_absent_class_has_no_width_and_a_full_image_has_its_own():
    found = fingerprint(split_of(np.ones((64, 96), np.uint8)), 3)
    assert found.shares == (0, 1, 0)
    assert found.widths == (math.inf, 64, math.inf)


def test_a_large_split_is_sampled(monkeypatch):
    monkeypatch.setattr(fingerprints, "MOST_IMAGES", 3)
    read = []
    labels = [np.full((8, 8), k, np.uint8) for k in range(7)]
    split = split_of(*labels)
    noted = Split(split.names, split.sizes, lambda i: (read.append(i), split.read(i))[1])
    assert fingerprint(noted, 7).shares == (1 / 3, 0, 0, 1 / 3, 0, 0, 1 / 3)
    assert read == [0, 3, 6]
