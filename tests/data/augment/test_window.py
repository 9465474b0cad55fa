"""Windows with foreground: their number, their position, and batches without any as before."""

import functools
import math

import grain
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from made_data import make_split, pick

from configs import base
from unet_jax import IGNORED
from unet_jax.data.augment.transforms import build
from unet_jax.data.augment.window import foreground_corner, is_forced
from unet_jax.data.dataset import Split
from unet_jax.data.fit import Fit
from unet_jax.data.pipeline import read_ahead, train_batches

SIZE = 8


def sparse_split(images: int = 5, side: int = 64) -> Split:
    """Images with one foreground pixel each, of class 1 + index % 3."""
    labels = np.zeros((images, side, side), np.uint8)
    rng = np.random.default_rng(0)
    for index, label in enumerate(labels):
        label[tuple(rng.integers(0, side, 2))] = 1 + index % 3
    names = tuple(map(str, range(images)))
    return Split(
        names, ((side, side),) * images, functools.partial(pick, labels[..., None], labels)
    )


def batches_of(split, names=("flip", "quarter_turn"), **changes):
    augment = build(names, base.get_config().augment, fit=Fit("crop", SIZE))
    return train_batches(split, **{"batch_size": 4, "augment": augment, "seed": 3, **changes})


def has_foreground(batch) -> np.ndarray:
    return ((batch["label"] > 0) & (batch["label"] != IGNORED)).any((1, 2))


@settings(max_examples=50)
@given(st.decimals(0, 1, places=3), st.integers(0, 10**12), st.integers(1, 300))
@example(0.29, 0, 100)
@example(1, 5, 100)
def test_the_number_of_forced_windows_is_exact(share, start, count):
    forced = sum(is_forced(position, float(share)) for position in range(start, start + count))
    thousandths = round(float(share) * 1000)
    before, after = (thousandths * n // 1000 for n in (start, start + count))
    assert forced == after - before
    assert abs(forced - float(share) * count) < 1


def test_the_share_holds_after_flips_and_quarter_turns():
    batches, count = batches_of(sparse_split(), foreground=0.33), 50
    found = np.concatenate([has_foreground(batches[step]) for step in range(count)])
    forced = np.array([is_forced(position, 0.33) for position in range(4 * count)])
    assert found[forced].all()
    assert found.mean() < 0.38  # about 2 % of the other windows contain the pixel


def test_classes_and_pixels_are_drawn_uniformly():
    label = np.zeros((40, 50), np.uint8)
    label[5, 10:30], label[20:24, 40] = 1, 2  # 20 pixels of class 1 and 4 of class 2, far apart
    label[30:, :10] = IGNORED
    rng, draws = np.random.default_rng(0), 10_000
    corners = np.array([foreground_corner(label, 1, rng) for _ in range(draws)])
    drawn = label[corners[:, 0], corners[:, 1]]
    shares = np.bincount(drawn, minlength=3) / draws
    np.testing.assert_allclose(shares, [0, 0.5, 0.5], atol=0.02)
    _, counts = np.unique(corners[drawn == 1], axis=0, return_counts=True)
    assert len(counts) == 20
    np.testing.assert_allclose(counts / counts.sum(), 1 / 20, atol=0.02)
    corners = np.array([foreground_corner(label[:, :12], 4, rng) for _ in range(draws)])
    rows, counts = np.unique(corners[:, 0], return_counts=True)
    assert rows.tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(counts / draws, 1 / 4, atol=0.02)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    size=st.integers(1, 40),
    values=st.lists(st.sampled_from([0, 1, 2, 7, 254, IGNORED]), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_window_lies_in_the_image_and_contains_foreground(shape, size, values, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice(values, shape).astype(np.uint8)
    corner = foreground_corner(label, size, rng)
    foreground = (label > 0) & (label != IGNORED)
    if not foreground.any():
        assert corner is None
        return
    assert corner is not None
    assert all(0 <= c <= max(n - size, 0) for c, n in zip(corner, shape, strict=True))
    top, left = corner
    assert foreground[top : top + size, left : left + size].any()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 24))
def test_every_window_around_the_pixel_can_be_drawn(seed, size):
    rng = np.random.default_rng(seed)
    label = np.zeros((12, 9), np.uint8)
    row, column = (int(rng.integers(n)) for n in label.shape)
    label[row, column] = 1
    possible = [
        range(max(at - size + 1, 0), min(at, max(n - size, 0)) + 1)
        for at, n in zip((row, column), label.shape, strict=True)
    ]
    number = math.prod(map(len, possible))
    assume(number <= 20)
    drawn = {foreground_corner(label, size, rng) for _ in range(40 * number)}
    assert drawn == {(top, left) for top in possible[0] for left in possible[1]}


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_and_resumed_runs_force_the_same_windows(hosts):
    split = sparse_split()
    whole = batches_of(split, foreground=0.33)
    parts = [
        batches_of(split, foreground=0.33, process_index=host, process_count=hosts)
        for host in range(hosts)
    ]
    for step in range(5):
        for key, array in whole[step].items():
            joined = np.stack([part[step][key] for part in parts], axis=1).reshape(array.shape)
            np.testing.assert_array_equal(joined, array)
    resumed = list(zip(range(7, 9), read_ahead(whole[7:9]), strict=True))
    for step, batch in resumed:
        np.testing.assert_array_equal(batch["label"], whole[step]["label"])


def test_windows_of_images_without_foreground_are_anywhere():
    split = make_split(2, 64, seed=0)
    images, labels = split.read.args
    batches = batches_of(
        Split(split.names, split.sizes, functools.partial(pick, images, 0 * labels)), foreground=1.0
    )
    assert batches[0]["label"].shape == (4, SIZE, SIZE)
    assert len({batches[step]["image"].tobytes() for step in range(4)}) == 4


def test_without_the_field_batches_are_as_ever():
    split = make_split(3, 64, seed=0)

    def cut(example, rng):
        top, left = int(rng.integers(64 - SIZE + 1)), int(rng.integers(64 - SIZE + 1))
        window = slice(top, top + SIZE), slice(left, left + SIZE)
        return {"image": example["image"][window], "label": example["label"][window]}

    plain = grain.MapDataset.source(split).seed(3).shuffle().random_map(cut).repeat().batch(4)
    batches = batches_of(split, ())
    for step in range(5):
        assert batches[step].keys() == {"image", "label", "index"}
        for key, array in plain[step].items():
            np.testing.assert_array_equal(batches[step][key], array)
