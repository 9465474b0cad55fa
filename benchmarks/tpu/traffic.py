"""Finds the operations of a program compiled for TPU that move the most bytes.

XLA reports the bytes that a program accesses, but not by operation. Here the bytes of an operation
are those of its result and operands in the chip's main memory (HBM): in whole tiles of, for
example, 8 x 128 numbers, padding included. Arrays that XLA keeps in a core's own memory are not
counted. An operand counts completely, even if only a part is read. For a network that fills a chip,
the sum is within a few percent of XLA's, which also counts on-chip memory.
"""

import math
import re
from typing import NamedTuple

from benchmarks.profile import layer_and_pass, operations

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}  # bytes
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")  # bf16[2,3]{1,0:T(8,128)(2,1)}
ASSIGNED = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
FREE = "parameter constant tuple get-tuple-element bitcast copy-done all-reduce-done".split()


class Operation(NamedTuple):
    """One operation of a program, and the bytes that it moves."""

    name: str
    shape: str  # shape of the result
    layer: str
    direction: str  # forward, backward, or "" for neither
    written: int  # bytes
    read: int


def held_bytes(shape: str) -> int:
    """Returns the bytes in main memory of a shape, or tuple of shapes, in a program's text.

    f32[4,3]{1,0:T(8,128)} is one tile of 8 x 128 numbers; S(1) after the tile means a core's own
    memory.
    """
    total = 0
    for kind, sizes, order, layout in ARRAY.findall(shape):
        if kind not in WIDTHS or "S(" in layout:
            continue
        lengths = [int(n) for n in sizes.split(",") if n]
        tile = [int(n) for n in re.findall(r"\d+", layout.partition(")")[0])]
        # The tile covers the fastest-changing axes, which the order lists first.
        axes = [int(axis) for axis in order.split(",") if axis]
        for axis, side in zip(axes, reversed(tile), strict=False):
            lengths[axis] = -(-lengths[axis] // side) * side
        total += WIDTHS[kind] * math.prod(lengths)
    return total


def all_reduce_bytes(program: str) -> int:
    """Returns the bytes that a device contributes to the all-reduces of a program's text.

    The arrays count without padding. Those within a loop count once.
    """
    total = 0
    for line in program.splitlines():
        if not (assigned := ASSIGNED.match(line)):
            continue
        _, shape, kind, _ = assigned.groups()
        if kind in ("all-reduce", "all-reduce-start"):  # an asynchronous one also has a "-done"
            for number, sizes, _, _ in ARRAY.findall(shape):
                total += WIDTHS[number] * math.prod(int(n) for n in sizes.split(",") if n)
    return total


def traffic(program: str) -> list[Operation]:
    """Returns the operations of a compiled program's text, those that move most bytes first."""
    known = operations(program)
    entry = program[program.index("\nENTRY ") :].splitlines()[2:]
    shapes, found = {}, []
    for line in entry:
        if not (assigned := ASSIGNED.match(line)):
            continue
        name, shape, kind, rest = assigned.groups()
        shapes[name] = shape
        if kind in FREE:
            continue
        if kind.endswith("-start"):  # (result, operand, ...)
            shape = re.sub(r"^\((.*?\}).*", r"\1", shape)
        operands = set(re.findall(r"%([\w.\-]+)", rest.partition("), ")[0]))
        read = sum(held_bytes(shapes.get(operand, "")) for operand in operands)
        result, origin = known[name]
        found.append(Operation(name, result, *layer_and_pass(origin), held_bytes(shape), read))
    return sorted(found, key=lambda operation: -operation.written - operation.read)
