"""Splits: how names are dealt, and what an example is."""

import numpy as np
import pytest

from unet_jax.data.dataset import Split, random_split
from unet_jax.errors import UserError

NAMES = [f"slice-{i:02d}" for i in range(30)]
PARTS = ("train", "validation", "test")


def deal(names, counts, seed: int = 0) -> dict[str, list[str]]:
    """The names of each part."""
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
def test_the_order_in_which_names_come_does_not_matter(shuffle):
    shuffled = np.random.default_rng(shuffle).permutation(NAMES).tolist()
    assert shuffled != NAMES
    assert deal(shuffled, (24, 3, 3)) == deal(NAMES, (24, 3, 3))


def test_seeds_deal_differently_and_repeatably():
    first, again, other = (deal(NAMES, (24, 3, 3), seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_every_image_gets_into_every_part_with_some_seed():
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
    [(24, 3, 2), (24, 3, 4), (30, 3, -3), (-1, 28, 3), (27, 3), (24, 3, 2, 1), (0, 0, 0)],
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


def test_an_example_is_read_when_it_is_asked_for():
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
