"""The registry of loss terms: what `loss.name` may join by '+'."""

import dataclasses
from collections.abc import Callable, Mapping

import jax

from configs.base import FIELDS
from unet_jax.core.fields import Field
from unet_jax.core.registry import Registry

ANY_LOGITS = range(1, 255)
LossFunction = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Term:
    """A loss term and its properties.

    Attributes:
      function: see `losses`.
      logits: the numbers of logits per pixel that it supports.
      is_mean_over_pixels: whether it is a mean of the pixels' values, so that the loss of several
        images is the mean of their losses, each weighted by its number of counted pixels or, with
        pixel or class weights, by the sum of these over its pixels.
      fields: the fields of `config.loss` that it takes as keyword arguments, by dotted name.
    """

    function: LossFunction
    logits: range
    is_mean_over_pixels: bool
    fields: Mapping[str, Field]

    @property
    def options(self) -> dict[str, Field]:
        """Those of the fields that are not in `configs/base.py`."""
        return {name: field for name, field in self.fields.items() if name not in FIELDS}


def fields_of_base(*names: str) -> dict[str, Field]:
    """Returns fields of `config.loss` that are in `configs/base.py`, by dotted name."""
    return {f"loss.{name}": FIELDS[f"loss.{name}"] for name in names}


LOSSES: Registry[Term] = Registry("unet_jax.learning")


def loss_term(
    name: str,
    *,
    is_mean_over_pixels: bool,
    logits: range = ANY_LOGITS,
    fields: Mapping[str, Field] | None = None,
) -> Callable[[LossFunction], LossFunction]:
    """Returns a decorator that registers a function as a loss term; see `Term`."""

    def add(function: LossFunction) -> LossFunction:
        LOSSES.register(name)(Term(function, logits, is_mean_over_pixels, fields or {}))
        return function

    return add
