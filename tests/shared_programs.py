"""Compiled functions that tests share: tracing takes most of a small run's time."""

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
import pytest

from unet_jax import models
from unet_jax.distributed import devices


class _Same:
    """A value without a hash, which equals itself only."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def signature(value: Any) -> Hashable:
    """Equal for functions of equal code with equal arguments and closures.

    Module globals are not part of it: a test that patches one needs an experiment of its own.
    """
    if isinstance(value, functools.partial):
        return signature(value.func), signature(value.args), signature(value.keywords)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, signature(value.__defaults__), signature(cells)
    if isinstance(value, types.MethodType):
        return signature(value.__self__), value.__func__.__code__
    if isinstance(value, dict):
        return signature(sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(signature, value))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


def _once(function: Callable) -> Callable:
    results = {}

    @functools.wraps(function)
    def shared(*arguments: Any, **options: Any) -> Any:
        key = signature((arguments, options))
        if key not in results:
            results[key] = function(*arguments, **options)
        return results[key]

    return shared


_compile_train_step = _once(devices.compile_train_step)
_compile_eval_step = _once(devices.compile_eval_step)
_init = _once(models.init)
_count_flop = models.forward_gflop


@functools.cache
def _forward_gflop(model: models.Network, size: int, channels: int) -> float | None:
    return _count_flop(model, _init(model, channels, 0), size, channels)


@pytest.fixture(autouse=True)
def _shared_programs(monkeypatch):
    """Compiles equal steps, and initialises equal networks, once in a process."""
    monkeypatch.setattr(devices, "compile_train_step", _compile_train_step)
    monkeypatch.setattr(devices, "compile_eval_step", _compile_eval_step)
    monkeypatch.setattr(models, "init", lambda *args, **k: jax.tree.map(np.copy, _init(*args, **k)))
    monkeypatch.setattr(
        models,
        "forward_gflop",
        lambda model, _, size, channels: _forward_gflop(model, size, channels),
    )


@pytest.fixture
def config(config):
    """A network of one level, which is compiled in half the time."""
    config.model.depth = 1
    return config


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Keeps the programs between the files of a folder, which share most of them."""
