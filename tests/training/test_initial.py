"""Initial variables from another network's: every array is taken, adapted, new or a misfit."""

import re

import flax.traverse_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.training.initial import adapt_channels, transfer

FIRST, HEAD = ("down_0", "kernel"), ("head",)

shapes = st.sampled_from([(), (2,), (3,), (1, 2), (3, 2), (1, 1, 2, 2), (1, 1, 2, 3), (1, 1, 3, 2)])
paths = st.tuples(
    st.sampled_from(["params", "batch_stats"]),
    st.sampled_from(["down_0", "bottom", "head", "head_1"]),
    st.sampled_from(["kernel", "bias"]),
)
trees = st.dictionaries(paths, shapes, max_size=8)


def filled(shapes: dict, value: float) -> dict:
    arrays = {path: np.full(shape, value, np.float32) for path, shape in shapes.items()}
    return flax.traverse_util.unflatten_dict(arrays)


@settings(max_examples=300, deadline=None)
@given(ours=trees, theirs=trees, modules=st.sampled_from([("",), ("down_",)]))
def test_no_array_is_lost(ours, theirs, modules):
    tree, made = transfer(filled(ours, 1), filled(theirs, 2), FIRST, HEAD, modules)
    arrays = flax.traverse_util.flatten_dict(tree)
    assert {path: array.shape for path, array in arrays.items()} == ours
    kept = [*made.new, *made.missing, *made.different]
    of_target = [*made.taken, *made.adapted, *kept]
    assert sorted(of_target) == sorted(ours)  # each is in one of the fields
    assert sorted(made.unused) == sorted(theirs.keys() - ours.keys())
    assert all((arrays[path] == 2).all() for path in made.taken)
    assert all((arrays[path] == 1).all() for path in kept)
    for path in made.taken:
        assert ours[path] == theirs[path]
    for path in made.adapted:
        assert path == ("params", *FIRST)
        assert arrays[path].sum(-2) == pytest.approx(2.0 * theirs[path][-2])
    for path in made.new:
        assert path[1].startswith("head") or not path[1].startswith(modules)
    for path, (source, target) in made.different.items():
        assert (source, target) == (theirs[path], ours[path]) and source != target
    assert len(made.misfits) == len(made.missing) + len(made.unused) + len(made.different)
    if ours == theirs:
        assert not made.misfits and sorted(made.taken) == sorted(ours)
    assert set(made.modules) == {path[1] for path in (*made.taken, *made.adapted, *made.new)}


NETWORK = {
    ("params", "down_0", "kernel"): (3, 3, 1, 4),
    ("batch_stats", "down_0", "mean"): (4,),
    ("params", "head", "kernel"): (1, 1, 4, 2),
    ("params", "head", "bias"): (2,),
}


def test_another_number_of_classes_starts_the_whole_head_anew():
    other = NETWORK | {("params", "head", "kernel"): (1, 1, 4, 5), ("params", "head", "bias"): (5,)}
    _, made = transfer(filled(NETWORK, 1), filled(other, 2), FIRST, HEAD)
    assert not made.misfits
    assert made.modules == {"down_0": "taken", "head": "new"}


@pytest.mark.parametrize(
    ("path", "shape", "line"),
    [
        (
            ("params", "down_0", "kernel"),
            (3, 3, 1, 8),
            r"\(3, 3, 1, 8\) in the source, ",
        ),
        (("params", "down_0", "kernel"), (5, 5, 1, 4), r"params/down_0/kernel: "),
        (("params", "head", "kernel"), (1, 1, 8, 2), r"params/head/kernel: "),
        (("params", "up_0", "kernel"), (2, 2), r"params/up_0/kernel: absent in the network"),
        (("params", "head", "bias"), None, r"params/head/bias: absent in the source"),
    ],
)
def test_another_network_is_a_misfit(path, shape, line):
    other = {name: x for name, x in (NETWORK | {path: shape}).items() if x is not None}
    _, made = transfer(filled(NETWORK, 1), filled(other, 2), FIRST, HEAD)
    (misfit,) = made.misfits
    assert re.search(line, misfit)


@pytest.mark.parametrize(("given_channels", "channels"), [(3, 1), (1, 3), (3, 4), (3, 6), (4, 2)])
def test_a_first_kernel_is_adapted(given_channels, channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, given_channels, 2)).astype(np.float32)
    adapted = adapt_channels(kernel, channels)
    assert adapted.shape == (3, 3, channels, 2) and adapted.dtype == np.float32
    for channel in range(channels):
        expected = kernel[:, :, channel % given_channels] * np.float32(given_channels / channels)
        if channels == 1:
            expected = kernel.sum(2)
        np.testing.assert_allclose(adapted[:, :, channel], expected, rtol=1e-6)
    if channels % given_channels == 0 or channels == 1:  # equal channels give equal responses
        np.testing.assert_allclose(adapted.sum(2), kernel.sum(2), rtol=1e-5, atol=1e-6)
