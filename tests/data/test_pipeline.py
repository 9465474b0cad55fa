import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import make_split, pick

from configs import base
from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.augment.transforms import build
from unet_jax.data.dataset import Split
from unet_jax.data.fit import SHAPES, Fit, padded_shapes
from unet_jax.data.pipeline import (
    eval_batches,
    read_ahead,
    train_batches,
)
from unet_jax.data.resize import resize


def batches_of(split, **changes):
    names = changes.pop("names", ("flip", "quarter_turn"))
    fit = changes.pop("fit", Fit("crop", 24))
    augment = build(names, base.get_config().augment, fit=fit)
    return train_batches(split, **{"batch_size": 4, "augment": augment, "seed": 3, **changes})


def eval_batches_of(split, **changes):
    return eval_batches(split, **{"batch_size": 2, "fit": Fit("crop", 24), **changes})


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def mixed_sizes() -> Split:
    """Three images of different sizes."""
    sizes = ((20, 33), (40, 16), (8, 8))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 1), dtype=np.uint8) for size in sizes]
    labels = [(image[..., 0] > 128).astype(np.uint8) for image in images]
    return Split(("a", "b", "c"), sizes, functools.partial(pick, images, labels))


def test_batches_have_the_documented_shapes_and_types():
    batch = batches_of(make_split(6, 32, seed=0))[0]
    assert batch["image"].shape == (4, 24, 24, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 24, 24)
    assert batch["label"].dtype == np.uint8
    assert batch["index"].shape == (4,)


def test_every_image_is_seen_once_before_any_is_seen_again():
    batches = batches_of(make_split(6, 32, seed=0), batch_size=3)
    epochs = [
        np.concatenate([batches[2 * e]["index"], batches[2 * e + 1]["index"]]) for e in range(4)
    ]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("hosts", [1, 4])
def test_a_batch_may_be_one_example_on_each_host(hosts):
    batches = batches_of(make_split(3, 32, seed=0), batch_size=hosts, process_count=hosts)
    rest = batches[5:1000]
    assert len(rest) == 995
    assert rest[0]["image"].shape == (1, 24, 24, 1)


def test_each_epoch_augments_an_image_differently():
    batches = batches_of(make_split(1, 32, seed=0), batch_size=1)
    seen = {batches[i]["image"].tobytes() for i in range(8)}
    assert len(seen) > 4


def test_the_seed_determines_order_and_augmentation():
    split = make_split(6, 32, seed=0)
    assert_equal(batches_of(split)[5], batches_of(split)[5])
    assert (batches_of(split)[5]["image"] != batches_of(split, seed=4)[5]["image"]).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_batches_join_to_the_global_batches(hosts):
    split = make_split(5, 32, seed=0)  # five images: epochs end inside batches
    whole = batches_of(split)
    slices = [batches_of(split, process_index=h, process_count=hosts) for h in range(hosts)]
    for step in range(6):
        parts = [part[step] for part in slices]
        joined = {
            # Example i of the global batch is on host i % hosts.
            key: np.stack([part[key] for part in parts], axis=1).reshape(whole[step][key].shape)
            for key in whole[step]
        }
        assert_equal(joined, whole[step])


def test_evaluation_reads_each_image_once_and_pads_with_ignored_examples():
    split = mixed_sizes()
    batches = eval_batches_of(split)
    assert [batches[i]["index"].tolist() for i in range(3)] == [[0, -1], [1, -1], [2, -1]]
    for place, batch in enumerate(batches):
        height, width = split.sizes[place]
        assert batch["image"].shape == (2, height, width, 1)
        np.testing.assert_array_equal(batch["label"][0], split[place]["label"])
        assert (batch["label"][1] == IGNORED).all()


def test_many_sizes_share_few_shapes():
    rng = np.random.default_rng(0)
    sizes = tuple((int(h), int(w)) for h, w in rng.integers(5, 60, (30, 2)))
    images = [rng.integers(0, 256, (*size, 1), dtype=np.uint8) for size in sizes]
    labels = [(image[..., 0] > 128).astype(np.uint8) for image in images]
    split = Split(tuple(map(str, range(30))), sizes, functools.partial(pick, images, labels))
    batches = list(eval_batches_of(split, batch_size=4))
    assert len({batch["image"].shape for batch in batches}) <= SHAPES
    rows = [
        (int(index), label)
        for batch in batches
        for index, label in zip(batch["index"], batch["label"], strict=True)
    ]
    assert sorted(index for index, _ in rows if index >= 0) == list(range(30))
    for index, label in rows:
        height, width = sizes[index] if index >= 0 else (0, 0)
        if index >= 0:
            np.testing.assert_array_equal(label[:height, :width], split[index]["label"])
        assert (label == IGNORED).sum() == label.size - height * width


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), min_size=1, max_size=90))
def test_padded_shapes_are_few_and_hold_their_images(sizes):
    shapes = padded_shapes(tuple(sizes), 3)
    assert set(shapes) == set(sizes)
    assert len(set(shapes.values())) <= 3
    assert all(h <= height and w <= width for (h, w), (height, width) in shapes.items())
    if len(set(sizes)) <= 3:
        assert all(size == shape for size, shape in shapes.items())


def test_merging_shapes_minimises_padding():
    sizes = ((375, 500),) * 50 + ((500, 375),) * 20 + ((333, 500),) * 10 + ((500, 334),) * 3
    assert padded_shapes(sizes, 2) == {
        (375, 500): (375, 500),
        (333, 500): (375, 500),
        (500, 375): (500, 375),
        (500, 334): (500, 375),
    }


def test_evaluation_of_chosen_images_keeps_their_order():
    batches = eval_batches_of(make_split(6, 16, seed=0), indices=[4, 1, 5])
    assert [batches[i]["index"].tolist() for i in range(2)] == [[4, 1], [5, -1]]


def test_resized_batches_have_whole_images_of_one_size():
    split = mixed_sizes()
    for batches in (
        batches_of(split, fit=Fit("resize", 12), batch_size=3, names=()),
        eval_batches_of(split, fit=Fit("resize", 12), batch_size=4),
    ):
        batch = batches[0]
        for row, index in enumerate(batch["index"].tolist()):
            if index >= 0:
                expected = resize(split[index], 12, 12)
                np.testing.assert_array_equal(batch["image"][row], expected["image"])
                np.testing.assert_array_equal(batch["label"][row], expected["label"])
            else:
                assert (batch["label"][row] == IGNORED).all()


EACH_KIND = ("flip", "rotation", "scale", "elastic", "brightness", "noise", "randaugment")


@pytest.mark.parametrize("workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_workers_threads_and_the_first_step_change_nothing(workers):
    batches = batches_of(make_split(6, 32, seed=0), names=EACH_KIND)
    whole = [batches[step] for step in range(7)]
    ahead = iter(read_ahead(batches[2:], workers))
    try:
        for step in range(2, 7):
            assert_equal(next(ahead), whole[step])
    finally:
        ahead.close()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_colours_of_grey_images_are_refused_in_one_line(workers):
    batches = batches_of(make_split(6, 32, seed=0), names=("hue",))
    ahead = iter(read_ahead(batches[:3], workers))
    try:
        with pytest.raises(UserError) as caught:
            next(ahead)
    finally:
        ahead.close()
    expected = "data.augment: hue is for RGB images, but these have 1 channel; leave it out"
    assert str(caught.value) == expected
