"""Tests of the U-Net paper's weight map, against hand-computed values and brute force."""

import dataclasses
import functools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import make_split, pick
from scipy import ndimage

from configs import base
from unet_jax.data import weight_map
from unet_jax.data.augment.transforms import build
from unet_jax.data.dataset import Split
from unet_jax.data.files.tiff import read_tiff
from unet_jax.data.fit import Fit
from unet_jax.data.pipeline import read_ahead, train_batches
from unet_jax.data.resize import resize, resize_smooth
from unet_jax.data.weight_map import CUT_OFF, border_weights, class_balance, with_weights

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
SIDES, SEEDS = st.integers(1, 16), st.integers(0, 10_000)


def random_label(height: int, width: int, seed: int) -> np.ndarray:
    """Returns a label with few or many cells and, sometimes, ignored pixels."""
    rng = np.random.default_rng(seed)
    cell, ignored = rng.choice([0.03, 0.2, 0.6]), rng.choice([0.0, 0.1])
    shares = [1 - cell - ignored, cell, ignored]
    return rng.choice(np.array([0, 1, 255], np.uint8), (height, width), p=shares)


def brute_force(label: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Computes equation 2's second term from all distances between pixels and cells."""
    cells, count = ndimage.label(label == 1)
    term = np.zeros(label.shape)
    for y, x in np.argwhere(label == 0):
        distances = []
        for cell in range(1, count + 1):
            rows, columns = np.nonzero(cells == cell)
            distances.append(np.sqrt((rows - y) ** 2 + (columns - x) ** 2).min())
        if count > 1:
            d1, d2 = sorted(distances)[:2]
            term[y, x] = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return term


def assert_close(found: np.ndarray, expected: np.ndarray, w0: float) -> None:
    """Compares exactly above the cut-off, and with its documented tolerance below."""
    assert found.dtype == np.float32
    matters = expected > CUT_OFF * w0
    np.testing.assert_allclose(found[matters], expected[matters], rtol=2e-5)
    assert np.all(found[~matters] >= 0)
    assert np.all(found[~matters] <= expected[~matters] + 1e-6 * w0)


@PROPERTY
@given(
    height=SIDES, width=SIDES, seed=SEEDS, w0=st.sampled_from([0.5, 10.0]), sigma=st.floats(0.5, 9)
)
def test_the_border_term_equals_brute_force(height, width, seed, w0, sigma):
    label = random_label(height, width, seed)
    before = label.copy()
    assert_close(border_weights(label, w0, sigma), brute_force(label, w0, sigma), w0)
    np.testing.assert_array_equal(label, before)


@PROPERTY
@given(height=SIDES, width=SIDES, seed=SEEDS)
def test_the_border_term_rotates_with_the_label(height, width, seed):
    label = random_label(height, width, seed)
    term = border_weights(label, 10, 3)
    for turn in (np.flipud, np.fliplr, np.transpose, np.rot90):
        np.testing.assert_array_equal(border_weights(turn(label), 10, 3), turn(term))


@pytest.mark.parametrize("gap", range(1, 31))
def test_the_border_term_is_constant_in_a_straight_gap(gap):
    """d1 + d2 is gap + 1 at each pixel; the term is cut off beyond 20 pixels."""
    label = np.ones((3, gap + 4), np.uint8)
    label[:, 2:-2] = 0
    expected = np.zeros(label.shape)
    expected[:, 2:-2] = 10 * np.exp(-((gap + 1) ** 2) / 50)
    assert_close(border_weights(label, 10, 5), expected, 10)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # 10 exp(-(1 + 1)^2 / 50)
        (["101"], [[0, 9.231163, 0]]),
        # 10 exp(-(1 + 3)^2 / 50) and 10 exp(-(2 + 2)^2 / 50)
        (["10001"], [[0, 7.261490, 7.261490, 7.261490, 0]]),
        # 10 exp(-(1 + sqrt(2))^2 / 50) and 10 exp(-(1 + 2)^2 / 50)
        (["100", "001"], [[0, 8.899691, 8.352702], [8.352702, 8.899691, 0]]),
        # Two cells that touch at a corner are separate: 10 exp(-(1 + 1)^2 / 50)
        (["10", "01"], [[0, 9.231163], [9.231163, 0]]),
        # Two pixels of one cell are not two cells: 10 exp(-(1 + 3)^2 / 50)
        (["110001"], [[0, 0, 7.261490, 7.261490, 7.261490, 0]]),
        # An ignored pixel separates cells and has the term 0.
        (["1i1"], [[0, 0, 0]]),
        (["1i01"], [[0, 0, 8.352702, 0]]),  # 10 exp(-(1 + 2)^2 / 50)
        (["1i10"], [[0, 0, 0, 7.261490]]),  # 10 exp(-(1 + 3)^2 / 50)
    ],
    ids=lambda x: "/".join(x) if isinstance(x[0], str) else None,
)
def test_the_border_term_equals_hand_computed_values(rows, expected):
    codes = {"0": 0, "1": 1, "i": 255}
    label = np.array([[codes[c] for c in row] for row in rows], np.uint8)
    np.testing.assert_allclose(border_weights(label, 10, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("cells", [0, 1])
def test_with_fewer_than_two_cells_the_border_term_is_0(cells):
    label = np.zeros((9, 12), np.uint8)
    label[2:4, 3:5] = cells
    assert not border_weights(label, 10, 5).any()


def test_the_cost_of_a_cell_does_not_depend_on_the_image_s_size(monkeypatch):
    label = np.zeros((400, 400), np.uint8)
    label[::40, ::40] = 1  # a hundred cells of one pixel
    sizes = []
    transform = ndimage.distance_transform_edt
    monkeypatch.setattr(
        ndimage, "distance_transform_edt", lambda mask: sizes.append(mask.size) or transform(mask)
    )
    border_weights(label, 10, 5)
    assert len(sizes) == 100
    assert max(sizes) <= 45**2


def test_brute_force_on_a_part_of_a_real_slice(real_data):
    label = (read_tiff(real_data / "isbi" / "train-labels.tif")[0] > 0).astype(np.uint8)
    label = label[100:180, 200:280]
    assert ndimage.label(label)[1] > 3
    term = border_weights(label, 10, 5)
    assert_close(term, brute_force(label, 10, 5), 10)
    # Membranes are about six pixels wide.
    assert 3 < term[label == 0].mean() < 6


def test_class_balance_equals_hand_computed_values():
    assert class_balance([3, 1]) == pytest.approx((4 / 6, 4 / 2))
    assert class_balance([0.75, 0.25]) == pytest.approx((4 / 6, 4 / 2))
    assert class_balance([5, 0]) == (1.0, 1.0)
    assert class_balance([2, 0, 6]) == pytest.approx((8 / 4, 1.0, 8 / 12))
    assert class_balance([0, 0]) == (1.0, 1.0)


@PROPERTY
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=5).filter(any))
def test_balanced_weights_have_mean_1_and_equal_class_totals(counts):
    factors = class_balance(counts)
    assert np.dot(counts, factors) == pytest.approx(sum(counts))
    shares = [n * f for n, f in zip(counts, factors, strict=True) if n]
    np.testing.assert_allclose(shares, shares[0])


@pytest.fixture
def split() -> Split:
    return make_split(5, 32, seed=0, ignored=0.05)


@pytest.fixture
def computed(monkeypatch) -> list:
    """Records the labels for which `with_weights` computes a border term."""
    calls = []

    def counting(label, w0, sigma):
        calls.append(label)
        return border_weights(label, w0, sigma)

    monkeypatch.setattr(weight_map, "border_weights", counting)
    return calls


def weights_of(split: Split) -> np.ndarray:
    return np.stack([split[i]["weight"] for i in range(len(split))])


def test_each_example_of_a_weighted_split_has_its_weight_map(split, tmp_path, capsys):
    weighted = with_weights(split, tmp_path / "weights", 10, 5)
    labels = split.read.args[1]
    n0, n1 = np.sum(labels == 0), np.sum(labels == 1)
    class_weight = {0: (n0 + n1) / (2 * n0), 1: (n0 + n1) / (2 * n1), 255: 0}
    for i in range(len(split)):
        example, plain = weighted[i], split[i]
        assert "weight" not in plain
        weight = example.pop("weight")
        assert weight.dtype == np.float32
        expected = np.vectorize(class_weight.get)(labels[i]) + border_weights(labels[i], 10, 5)
        np.testing.assert_allclose(weight, expected, rtol=1e-6)
        assert not weight[labels[i] == 255].any()
        assert example.keys() == plain.keys()
        np.testing.assert_array_equal(example["image"], plain["image"])
    assert sum(border_weights(label, 10, 5).any() for label in labels) > 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "5 maps" in line
    assert f"class 0: {class_weight[0]:.3g}, class 1: {class_weight[1]:.3g}" in line


def test_each_image_s_map_is_computed_once(split, computed, tmp_path, capsys):
    first = weights_of(with_weights(split, tmp_path, 10, 5))
    assert len(computed) == 5
    assert "5 of them computed" in capsys.readouterr().out
    second = weights_of(with_weights(split, tmp_path, 10, 5))
    assert len(computed) == 5
    assert "0 of them computed" in capsys.readouterr().out
    np.testing.assert_array_equal(first, second)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: b"\0" * len(content),
        None,
    ],
    ids=["empty", "header only", "one byte short", "one bit", "zeros", "missing"],
)
def test_a_damaged_file_is_computed_again(split, computed, tmp_path, damage):
    expected = weights_of(with_weights(split, tmp_path, 10, 5))
    path = sorted(tmp_path.iterdir())[3]
    content = path.read_bytes()
    if damage:
        path.write_bytes(damage(content))
    else:
        path.unlink()
    computed.clear()
    np.testing.assert_array_equal(weights_of(with_weights(split, tmp_path, 10, 5)), expected)
    (label,) = computed
    np.testing.assert_array_equal(label, split.read.args[1][3])
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 5


def test_a_cached_file_is_not_used_for_other_settings_or_labels(split, computed, tmp_path):
    images, labels = split.read.args
    turned = dataclasses.replace(
        split, read=functools.partial(pick, images, labels.transpose(0, 2, 1).copy())
    )
    reshaped = dataclasses.replace(
        split, read=functools.partial(pick, images, labels.reshape(5, 16, 64))
    )
    with_weights(split, tmp_path, 10, 5)
    for other, w0, sigma in ((split, 9, 5), (split, 10, 4), (turned, 10, 5), (reshaped, 10, 5)):
        computed.clear()
        found = with_weights(other, tmp_path, w0, sigma)
        assert len(computed) == 5
        for i in range(5):
            _, label = other.read(i)
            between = label == 0
            border = found[i]["weight"] - found.weight.balance[0]
            expected = border_weights(label, w0, sigma)
            np.testing.assert_allclose(border[between], expected[between], atol=1e-5)


def test_images_with_equal_labels_have_separate_files(tmp_path):
    split = make_split(1, 32, seed=0)
    images, labels = split.read.args
    many = Split(
        tuple(f"image-{i}" for i in range(16)),
        split.sizes * 16,
        functools.partial(pick, images.repeat(16, 0), labels.repeat(16, 0)),
    )
    weights = weights_of(with_weights(many, tmp_path, 10, 5))
    assert np.all(weights == weights[0])
    assert len(list(tmp_path.iterdir())) == 16


def test_a_weighted_split_can_be_pickled(split, tmp_path):
    weighted = with_weights(split, tmp_path, 10, 5)
    again = pickle.loads(pickle.dumps(weighted))
    np.testing.assert_array_equal(weights_of(again), weights_of(weighted))


def batches_of(split: Split, names=("flip", "quarter_turn"), fit: str = "crop", size: int = 24):
    ranges = base.get_config().augment
    augment = build(names, ranges, fit=Fit(fit, size))
    return train_batches(split, batch_size=4, augment=augment, seed=3)


@pytest.mark.slow
def test_reader_processes_give_the_same_batches(split, tmp_path):
    batches = batches_of(with_weights(split, tmp_path, 10, 5))[:4]
    here, there = list(read_ahead(batches, 0)), list(read_ahead(batches, 2))
    assert len(here) == len(there) == 4
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys() == {"image", "label", "index", "weight"}
        assert a["weight"].dtype == np.float32
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def grey_as_weight(split: Split) -> Split:
    """Makes each pixel's weight its grey value, so that a transform must move both equally."""
    return dataclasses.replace(
        split, weight=lambda index, label: split.read(index)[0][..., 0].astype(np.float32)
    )


@pytest.mark.parametrize("size", [24, 40])
def test_weights_move_with_the_image_and_are_0_outside_it(size):
    split = grey_as_weight(make_split(5, 32, seed=0))
    for batch in batches_of(split, ("flip", "mirror", "quarter_turn"), size=size)[:4]:
        inside = batch["label"] != 255
        np.testing.assert_array_equal(batch["weight"], np.where(inside, batch["image"][..., 0], 0))
        assert inside.all() == (size == 24)
        assert batch["weight"].any()


def test_weights_are_resized_linearly():
    split = grey_as_weight(make_split(1, 32, seed=0))
    image = split[0]["image"]
    resized = resize(split[0], 20, 45)["weight"]
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized, resize_smooth(image, 20, 45)[..., 0])
    batch = batches_of(split, (), fit="resize", size=20)[0]
    np.testing.assert_array_equal(batch["weight"][0], resize_smooth(image, 20, 20)[..., 0])
