"""Tests of random splits and of the examples of a split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Split, random_group_split, random_split

NAMES = [f"slice-{i:02d}" for i in range(30)]
PARTS = ("train", "validation", "test")
PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


def deal(names, counts, seed: int = 0) -> dict[str, list[str]]:
    """Returns the names of each part."""
    split = random_split(names, counts, seed, "data/made")
    return {part: [names[i] for i in places] for part, places in split.items()}


@pytest.mark.parametrize("counts", [(24, 3, 3), (28, 1, 1), (15, 0, 15), (1, 28, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_disjoint_complete_and_sorted(counts, seed):
    parts = deal(NAMES, counts, seed)
    assert tuple(parts) == PARTS
    assert tuple(map(len, parts.values())) == counts
    assert sorted(name for names in parts.values() for name in names) == NAMES
    assert all(names == sorted(names) for names in parts.values())


def test_the_split_of_thirty_slices_is_pinned():
    validation, test = [9, 22, 27], [1, 15, 24]
    assert random_split(NAMES, (24, 3, 3), 0, "data/isbi") == {
        "train": [i for i in range(30) if i not in validation + test],
        "validation": validation,
        "test": test,
    }


@pytest.mark.parametrize("shuffle", [1, 2])
def test_the_order_of_the_names_does_not_matter(shuffle):
    shuffled = np.random.default_rng(shuffle).permutation(NAMES).tolist()
    assert shuffled != NAMES
    assert deal(shuffled, (24, 3, 3)) == deal(NAMES, (24, 3, 3))


def test_a_seed_reproduces_its_split_and_other_seeds_differ():
    first, again, other = (deal(NAMES, (24, 3, 3), seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_some_seed_deals_each_image_to_each_part():
    seen = {part: set() for part in PARTS}
    for seed in range(60):
        for part, names in deal(NAMES[:6], (2, 2, 2), seed).items():
            seen[part] |= set(names)
    assert seen == {part: set(NAMES[:6]) for part in PARTS}


def test_validation_may_be_empty():
    parts = deal(NAMES, (20, 0, 10))
    assert parts["validation"] == []
    assert len(parts["train"]) == 20


@pytest.mark.parametrize(
    "counts",
    [
        (24, 3, 2),
        (24, 3, 4),
        (30, 3, -3),
        (-1, 28, 3),
        (27, 3),
        (24, 3, 2, 1),
        (0, 0, 0),
        (30,),
        (0.5, 0.5),
        (0.8, 0.1, 0.2),
        (1.2, 0.2, -0.4),
        (float("nan"), 0.5, 0.5),
        (24.0, 3.0, 3.0),
        (0.5, 0, 0.5),
    ],
)
def test_counts_that_do_not_add_up_are_refused(counts):
    with pytest.raises(UserError) as caught:
        random_split(NAMES, counts, 0, "data/made")
    message = str(caught.value)
    assert "data.split" in message and "data/made" in message and "30" in message
    assert str(counts) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("counts", "part"), [((0, 15, 15), "train"), ((15, 15, 0), "test"), ((30, 0, 0), "test")]
)
def test_training_and_test_need_an_image(counts, part):
    with pytest.raises(UserError, match=rf"data\.split=.*\b{part}\b"):
        random_split(NAMES, counts, 0, "data/made")


def test_counts_may_be_a_list():
    assert deal(NAMES, [24, 3, 3]) == deal(NAMES, (24, 3, 3))


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ((0.8, 0.1, 0.1), 30, (24, 3, 3)),
        ((0.8, 0.1, 0.1), 31, (25, 3, 3)),
        ((0.5, 0.0, 0.5), 4, (2, 0, 2)),
        ((0.5, 0.0, 0.5), 5, (3, 0, 2)),
        ((0.98, 0.01, 0.01), 5, (3, 1, 1)),
        ((1 / 3, 1 / 3, 1 / 3), 3, (1, 1, 1)),
        ((0.7, 0.2, 0.1), 10, (7, 2, 1)),
    ],
)
def test_shares_become_numbers(shares, count, expected):
    names = [f"{i:02d}" for i in range(count)]
    by_share, by_number = random_split(names, shares, 3, "x"), random_split(names, expected, 3, "x")
    assert by_share == by_number


@PROPERTY
@given(
    weights=st.lists(st.integers(0, 20), min_size=2, max_size=3).filter(lambda w: w[0] and w[-1]),
    count=st.integers(3, 200),
)
def test_rounded_shares_add_up(weights, count):
    shares = [weight / sum(weights) for weight in weights]
    names = [str(i) for i in range(count)]
    parts = ("train", "validation", "test") if len(shares) == 3 else ("train", "test")
    dealt = random_split(names, shares, 0, "x", parts=parts)
    assert sorted(i for places in dealt.values() for i in places) == [*range(count)]
    for share, places in zip(shares, dealt.values(), strict=True):
        assert bool(share) == bool(places)
        if min(s for s in shares if s) * count >= 1:
            assert abs(len(places) - share * count) < 1


@pytest.mark.parametrize("count", [1, 2])
def test_shares_of_too_few_images_are_refused(count):
    with pytest.raises(UserError, match=rf"x has {count} images?; "):
        random_split(NAMES[:count], (0.8, 0.1, 0.1), 0, "x")


def test_a_data_set_with_its_own_test_images_is_dealt_to_two_parts():
    two = random_split(NAMES, (25, 5), 0, "x", parts=PARTS[:2])
    assert [*two] == ["train", "validation"]
    assert sorted(two["train"] + two["validation"]) == [*range(30)]
    assert len(two["validation"]) == 5
    assert random_split(NAMES, (1.0, 0.0), 0, "x", parts=PARTS[:2])["train"] == [*range(30)]
    with pytest.raises(UserError, match="train, validation that"):
        random_split(NAMES, (24, 3, 3), 0, "x", parts=PARTS[:2])


@PROPERTY
@given(train=st.integers(1, 20), validation=st.integers(0, 5), test=st.integers(1, 8))
def test_no_two_folds_test_an_image(train, validation, test):
    names = [f"{i:02d}" for i in range(train + validation + test)]
    counts, folds = (train, validation, test), len(names) // test
    dealt = [random_split(names, counts, 1, "x", fold=fold) for fold in range(folds)]
    tested = [place for parts in dealt for place in parts["test"]]
    assert len(set(tested)) == len(tested) == folds * test
    assert dealt[0] == random_split(names, counts, 1, "x")
    for parts in dealt:
        assert sorted(place for places in parts.values() for place in places) == [
            *range(len(names))
        ]
        assert tuple(map(len, parts.values())) == counts
        assert all(places == sorted(places) for places in parts.values())


def test_with_given_test_images_the_folds_rotate_the_validation_images():
    folds = [random_split(NAMES, (24, 6), 0, "x", fold=k, parts=PARTS[:2]) for k in range(5)]
    assert sorted(place for parts in folds for place in parts["validation"]) == [*range(30)]


@pytest.mark.parametrize(
    ("counts", "fold", "line"),
    [
        ((24, 3, 3), 10, r"data\.fold=10: x has 30 images, and .* gives 10 folds, numbered"),
        ((24, 0, 6), -1, "data.fold=-1: .* gives 5 folds"),
        ((0.5, 0.0, 0.5), 2, "data.fold=2: .* gives 2 folds"),
        ((), 1, "data.fold=1: .* gives 1 fold, numbered"),
    ],
)
def test_a_fold_that_does_not_exist_is_refused(counts, fold, line):
    with pytest.raises(UserError, match=line):
        random_split(NAMES, counts, 0, "x", fold=fold)


def test_without_validation_images_there_is_one_fold():
    with pytest.raises(UserError, match=r"data\.fold=1: x has 30 images, .* gives 1 fold"):
        random_split(NAMES, (30, 0), 0, "x", fold=1, parts=PARTS[:2])


def test_no_split_puts_every_image_in_train_and_test():
    names = ["b", "a", "c"]
    assert random_split(names, (), 0, "x") == {
        "train": [1, 0, 2],
        "validation": [],
        "test": [1, 0, 2],
    }
    assert random_split(names, (), 0, "x", parts=PARTS[:2]) == {
        "train": [1, 0, 2],
        "validation": [],
    }


@PROPERTY
@given(
    groups=st.lists(st.sampled_from("abcdef"), min_size=3, max_size=30).filter(
        lambda groups: len(set(groups)) >= 3
    ),
    seed=st.integers(0, 50),
)
def test_groups_stay_together(groups, seed):
    kinds = len(set(groups))
    parts = random_group_split(groups, (kinds - 2, 1, 1), seed, "x", fold=0, unit="car")
    assert sorted(i for places in parts.values() for i in places) == [*range(len(groups))]
    of_part = {part: {groups[i] for i in places} for part, places in parts.items()}
    assert [len(of_part[part]) for part in PARTS] == [kinds - 2, 1, 1]
    assert not of_part["train"] & of_part["test"]
    assert all(places == sorted(places) for places in parts.values())


def test_the_folds_of_groups_test_each_group_once():
    cars = ["a", "a", "b", "b", "b", "c"]
    tests = [
        random_group_split(cars, (2, 0, 1), 0, "x", fold=fold, unit="car")["test"]
        for fold in range(3)
    ]
    assert sorted(tests) == [[0, 1], [2, 3, 4], [5]]


def test_errors_name_the_unit_of_groups():
    with pytest.raises(UserError, match=r"x has 1 car; .*add up to that"):
        random_group_split(["a", "a"], (1, 0, 1), 0, "x", fold=0, unit="car")
    with pytest.raises(UserError, match="no test cars"):
        random_group_split(["a", "b"], (2, 0, 0), 0, "x", fold=0, unit="car")


def test_an_example_is_decoded_only_when_it_is_accessed():
    images = [np.full((2, 3, 1), i, np.uint16) for i in range(3)]
    labels = [np.full((2, 3), i, np.uint8) for i in range(3)]
    asked = []

    def read(index):
        asked.append(index)
        return images[index], labels[index]

    split = Split(("a", "b", "c"), ((2, 3),) * 3, read)
    assert len(split) == 3
    assert asked == []
    example = split[2]
    assert asked == [2]
    assert set(example) == {"image", "label", "index"}
    assert example["image"] is images[2]
    assert example["label"] is labels[2]
    assert example["index"] == 2
    assert example["index"].dtype == np.int32


def test_an_empty_split_has_no_examples():
    def read(index):
        raise IndexError(index)

    assert len(Split((), (), read)) == 0
