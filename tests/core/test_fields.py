"""What each field of a config may hold, and what is said of one that is none."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest

from configs import base
from configs.base import FIELDS
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.fields import MAX_ENTRIES, Field, check_field, nearest, no_such_field, within
from unet_jax.runs.choices import CHOICES
from unet_jax.runs.experiment import base_field, check, saved_config

NUMBERS = [name for name, field in FIELDS.items() if field.range]
SCALARS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(),
    st.sampled_from(["bce", "flip", "\0", "a\nb", "../x", "x" * 10_000, 10**400, -(10**30)]),
)
VALUES = st.one_of(SCALARS, st.lists(st.one_of(SCALARS, st.lists(SCALARS)), max_size=5))


def edges(name: str) -> tuple[list, list]:
    """The outermost numbers that a field may hold, and those one step further."""
    interval, whole = FIELDS[name].range, isinstance(FIELDS[name].default, int)
    inside, outside = [], []
    ends = [float(end) for end in interval[1:-1].split(",")]
    for end, is_open, out in zip(
        ends, (interval[0] == "(", interval[-1] == ")"), (-1, 1), strict=True
    ):
        if whole:
            inside.append(int(end) - out * is_open)
            outside.append(int(end) + out * (not is_open))
        else:
            inside.append(math.nextafter(end, -out * math.inf) if is_open else end)
            outside.append(end if is_open else math.nextafter(end, out * math.inf))
    return inside, outside


def given(name: str, value):
    return (value,) if isinstance(FIELDS[name].default, tuple) else value


def test_every_field_has_a_range_or_choices_or_is_a_text_or_a_truth_value():
    for name, field in FIELDS.items():
        numeric = isinstance(field.default, int | float | tuple) and not isinstance(
            field.default, bool
        )
        texts = name == "data.augment" or field.entries is str
        assert numeric == (bool(field.range) or texts), name
    assert set(CHOICES) <= set(FIELDS) - set(NUMBERS)


def test_a_tuple_may_have_texts_and_a_text_may_be_empty_if_its_default_is():
    check_field("data.texts", Field((), entries=str), ("0:a", "b"))
    check_field("data.text", Field(""), "")
    for field, value in ((Field((), entries=str), ("a", 1)), (Field("a"), ""), (Field(""), "\n")):
        with pytest.raises(UserError, match="must be a string"):
            check_field("data.text", field, value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_default_is_in_its_range(name):
    check_field(name, base_field(name), FIELDS[name].default)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_refused_one_step_outside_its_range(name):
    inside, outside = edges(name)
    for value in inside:
        check_field(name, FIELDS[name], given(name, value))
    for value in [*outside, math.nan, math.inf, -math.inf, "1", None, True, [1]]:
        with pytest.raises(UserError, match=rf"^{name}="):
            check_field(name, FIELDS[name], given(name, value))


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [("[0, 1)", [0, 0.5], [-1, 1, math.nan]), ("(0, 1]", [1e-300, 1], [0, 10**400])],
)
def test_within(interval, inside, outside):
    assert all(within(value, interval) for value in inside)
    assert not any(within(value, interval) for value in outside)


@hypothesis.given(name=st.sampled_from([*FIELDS]), value=VALUES)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_any_value_in_a_saved_config_passes_or_is_one_line(name, value):
    try:
        check(saved_config(flatten(base.get_config()) | {name: value}))
    except UserError as error:
        said = str(error)
        assert len(said) < 1000 and "\n" not in said and "\0" not in said
        assert name in said


@hypothesis.given(name=st.sampled_from([*FIELDS]), value=VALUES)
@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
def test_any_value_of_a_field_passes_or_is_one_line_that_names_it(name, value):
    try:
        check_field(name, base_field(name), value)
    except UserError as error:
        said = str(error)
        assert said.startswith(f"{name}=")
        assert len(said) < 1000 and "\n" not in said and "\0" not in said


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a/b", "../../x", "/etc", "a\\b", "a\nb", "a\0", "x" * 201, "\udcff"]
)
def test_a_name_is_one_of_a_folder(value):
    with pytest.raises(UserError, match=r"^name=") as error:
        check_field("name", FIELDS["name"], value)
    assert "\n" not in str(error.value) and "\0" not in str(error.value)


@pytest.mark.parametrize("name", ["isbi-small", "my run", "Zellgröße 2"])
def test_an_ordinary_name_is_taken(name):
    check_field("name", FIELDS["name"], name)


@pytest.mark.parametrize("name", ["data.split", "data.augment", "loss.weights"])
@pytest.mark.parametrize(
    "value", [(0.5,) * 10**6, (math.nan,), (-1.0,), ("x",), ((1, 2),), (10**5000,), 3, "abc", None]
)
def test_an_absurd_tuple_is_one_short_line(name, value):
    with pytest.raises(UserError, match=f"^{name}=") as error:
        check_field(name, base_field(name), value)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)
    assert MAX_ENTRIES < 10**6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lr", "optim.learning_rate"),
        ("optim.lr", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("model.widht", "model.width"),
        ("width", "model.width"),
        ("optim.depth", "model.depth"),
        ("epochs", "num_epochs"),
        ("batchsize", "batch_size"),
        ("wd", "optim.weight_decay"),
    ],
)
def test_the_nearest_field_is_named(name, expected):
    assert nearest(name, FIELDS)[0] == expected
    assert f"did you mean {expected}" in no_such_field(name, FIELDS)


def test_a_name_near_to_none_says_where_the_fields_are():
    assert nearest("qqqqqq", FIELDS) == []
    assert "docs/config-fields.md" in no_such_field("qqqqqq", FIELDS)
    assert "data is a section" in no_such_field("data", FIELDS)
