"""Run-length encodings against encoders written from their descriptions, and published results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_annotations import brush, compressed, runs

from unet_jax.data.annotations.coco import decode_counts, decode_rle
from unet_jax.data.annotations.label_studio import decode_brush

masks = st.tuples(st.integers(1, 9), st.integers(1, 90), st.integers(0, 2**32)).map(
    lambda drawn: np.repeat(
        np.random.default_rng(drawn[2]).random((drawn[0], drawn[1])) < 0.3, 4, axis=0
    )
)


@settings(max_examples=80, deadline=None)
@given(mask=masks)
def test_coco_rle(mask):
    counts = runs(mask.ravel(order="F"))
    assert decode_counts(compressed(counts)) == counts
    for given_counts in (counts, compressed(counts)):
        np.testing.assert_array_equal(decode_rle(given_counts, mask.shape, mask.shape), mask)


def test_coco_rle_as_pycocotools_writes_it():
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = mask[0, 0] = True
    mask[2, 3] = False
    np.testing.assert_array_equal(decode_rle("01:2HNO012004", (5, 7), (5, 7)), mask)


@pytest.mark.parametrize(
    ("counts", "stated", "line"),
    [
        ([0, 36], (5, 7), "36 pixels"),
        ([-1, 36], (5, 7), "not numbers of pixels"),
        ([0.5, 34.5], (5, 7), "not numbers of pixels"),
        ([0, 35], (7, 5), "height and width"),
        ("01:2HNO01200", (5, 7), "pixels"),
        ("0x", (5, 7), "'x' in compressed RLE"),
        ("0P", (5, 7), "truncated"),
    ],
)
def test_damaged_coco_rle_is_refused(counts, stated, line):
    with pytest.raises(ValueError, match=line):
        decode_rle(counts, stated, (5, 7))


@settings(max_examples=60, deadline=None)
@given(mask=masks, lengths=st.sampled_from([(3, 4, 8, 16), (1, 2, 3, 7)]), split=st.integers(0, 6))
def test_brush_rle(mask, lengths, split):
    values = np.repeat(np.where(mask.ravel(), 255, 7), 4).astype(np.uint8)
    decoded = decode_brush(brush(values, lengths, split), len(values))
    np.testing.assert_array_equal(decoded, values)


def test_brush_rle_as_label_studio_converter_writes_it():
    mask = np.zeros((4, 3), np.uint8)
    mask[1:3, 1:] = 255
    data = bytes([0, 0, 0, 48, 57, 27, 253, 240, 9, 255, 227, 0, 159, 254, 216, 0])
    np.testing.assert_array_equal(decode_brush(data, 48), np.repeat(mask, 4))
    with pytest.raises(ValueError, match="48 values"):
        decode_brush(data, 44)
    for length in range(len(data) - 1):
        with pytest.raises(ValueError, match="truncated"):
            decode_brush(data[:length], 48)
