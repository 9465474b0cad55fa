"""Initial variables of a network from the variables of another, matched by path and shape.

The source may be a checkpoint of another run, or weights of an encoder.
"""

import collections
import dataclasses
from collections.abc import Sequence

import flax.traverse_util
import numpy as np

Path = tuple[str, ...]  # of an array, such as ("params", "down_0", "Conv_0", "kernel")
Arrays = dict[Path, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What became of each array; every array of both trees is in exactly one of the fields.

    Attributes:
      taken: arrays of the target that have the source's values.
      adapted: the first kernel, if the source has another number of input channels.
      new: arrays of the target that keep their initial values as intended: a head for another
        number of classes, and the modules for which the source is not meant.
      missing: the other arrays that the source lacks.
      unused: arrays that only the source has.
      different: arrays whose shapes differ otherwise: those of the source and of the target.
    """

    taken: tuple[Path, ...]
    adapted: tuple[Path, ...]
    new: tuple[Path, ...]
    missing: tuple[Path, ...]
    unused: tuple[Path, ...]
    different: dict[Path, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def misfits(self) -> list[str]:
        """Describes each array of one tree that does not fit the other; empty if all fit."""
        lines = dict.fromkeys(self.missing, "absent in the source")
        lines |= dict.fromkeys(self.unused, "absent in the network")
        for path, (source, target) in self.different.items():
            lines[path] = f"{source} in the source, {target} in the network"
        return [f"{'/'.join(path)}: {lines[path]}" for path in sorted(lines)]

    @property
    def modules(self) -> dict[str, str]:
        """What became of each top-level module: `taken`, `adapted` (its first kernel) or `new`."""
        states = {}
        for state in ("taken", "new", "adapted"):
            states |= {_module(path): state for path in getattr(self, state)}
        return dict(sorted(states.items()))


def transfer(
    target: dict,
    source: dict,
    first_kernel: Path,
    head: Sequence[str],
    modules: Sequence[str] = ("",),
) -> tuple[dict, Transfer]:
    """Takes the arrays of a source whose paths and shapes are those of the target.

    A first kernel with another number of input channels is adapted (see `adapt_channels`). A head
    whose shapes differ in the last axis only, the classes, starts from scratch as a whole. Nothing
    else may differ: the caller must refuse a transfer with `misfits`.

    Args:
      target: the initial variables of the network: nested dicts of arrays, `params` and possibly
        `batch_stats`, by top-level module.
      source: variables in the same form.
      first_kernel: `Network.first_kernel`, a path within `params`.
      head: `Network.head_modules`, beginnings of the names of the modules that compute logits.
      modules: beginnings of the names of the top-level modules for which the source is meant, such
        as ("encoder",); the others keep their initial values. By default all.

    Returns:
      Variables with the target's paths, shapes and dtypes, as numpy arrays, and what became of
      each array. An array that does not fit has its initial value.
    """
    ours, theirs = _flatten(target), _flatten(source)
    restarted = _restarted(ours, theirs, tuple(head))
    found: dict[str, list[Path]] = collections.defaultdict(list)
    different, variables = {}, {path: np.array(array) for path, array in ours.items()}
    for path, array in variables.items():
        if path not in theirs:
            meant = _module(path).startswith(tuple(modules))
            found["missing" if meant else "new"].append(path)
            continue
        shapes = np.shape(theirs[path]), array.shape
        if _module(path) in restarted:
            found["new"].append(path)
        elif shapes[0] == shapes[1]:
            found["taken"].append(path)
            variables[path] = np.array(theirs[path], array.dtype)
        elif path == ("params", *first_kernel) and _differ_in(-2, *shapes):
            found["adapted"].append(path)
            adapted = adapt_channels(np.asarray(theirs[path]), array.shape[-2])
            variables[path] = adapted.astype(array.dtype)
        else:
            different[path] = shapes
    fields = {name: tuple(found[name]) for name in ("taken", "adapted", "new", "missing")}
    unused = tuple(path for path in theirs if path not in ours)
    tree = flax.traverse_util.unflatten_dict(variables)
    return tree, Transfer(**fields, unused=unused, different=different)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts the kernel of a convolution to another number of input channels.

    As in segmentation_models_pytorch: for one channel the kernel is summed over its channels, so
    that the responses to a grey image are those to the same image in all channels. For other
    numbers the channels are repeated cyclically, times the quotient of the numbers, which keeps the
    size of the responses.

    Args:
      kernel: [..., C, F].
      channels: the new number of channels.

    Returns:
      [..., channels, F].
    """
    given = kernel.shape[-2]
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return kernel[..., np.arange(channels) % given, :] * (given / channels)


def describe_adaptation(there: int, here: int) -> str:
    """Returns the line that says how the first kernel was adapted (see `adapt_channels`)."""
    rule = "summed" if here == 1 else f"repeated, times {there}/{here}"
    return f"adapted      the first convolution, from {there} to {here} channels: {rule}"


def _flatten(variables: dict) -> Arrays:
    return dict(flax.traverse_util.flatten_dict(variables))


def _restarted(ours: Arrays, theirs: Arrays, head: Path) -> set[str]:
    """Returns the top-level modules of the head whose shapes differ in the last axis only."""
    shapes = collections.defaultdict(list)
    for path in ours.keys() | theirs.keys():
        if head and _module(path).startswith(head):
            pair = (np.shape(x[path]) if path in x else None for x in (theirs, ours))
            shapes[_module(path)].append(tuple(pair))
    return {
        module
        for module, pairs in shapes.items()
        if any(a != b for a, b in pairs)
        and all(
            a == b or (a is not None and b is not None and _differ_in(-1, a, b)) for a, b in pairs
        )
    }


def _differ_in(axis: int, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Returns whether two shapes differ, and only in this axis, counted from the end."""
    if len(a) != len(b) or len(a) < -axis or a[axis] == b[axis]:
        return False
    return all(m == n for i, (m, n) in enumerate(zip(a, b, strict=True)) if i != len(a) + axis)


def _module(path: Path) -> str:
    """Returns the name of an array's top-level module, or its own name within no module."""
    return path[1] if len(path) > 1 else path[0]
