"""Which operations of a program that is compiled for TPU move the most bytes.

XLA says how many bytes a program accesses, not which operations do. Here an operation's are those
of its result and of its operands, as they lie in the chip's main memory: whole tiles of 8 x 128
numbers or the like, padding included. What XLA keeps in a core's own memory is not counted. An
operand counts whole, even where a part of it is read. For a network that fills a chip the sum is
within some percent of XLA's, which counts on-chip memory, too.
"""

import math
import re
from typing import NamedTuple

from benchmarks.profile import operations, place

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}  # bytes
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")  # bf16[2,3]{1,0:T(8,128)(2,1)}
ASSIGNED = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
FREE = "parameter constant tuple get-tuple-element bitcast copy-done all-reduce-done".split()


class Operation(NamedTuple):
    """One operation of a program, and what it moves."""

    name: str
    shape: str  # of the result
    layer: str
    direction: str  # forward, backward, or "" for neither
    written: int  # bytes
    read: int


def held_bytes(shape: str) -> int:
    """Bytes of a shape as a program for TPU writes it, or of a tuple of them, in main memory.

    f32[4,3]{1,0:T(8,128)} is one tile of 8 x 128 numbers; S(1) after it is a core's own memory.
    """
    total = 0
    for kind, sizes, order, layout in ARRAY.findall(shape):
        if kind not in WIDTHS or "S(" in layout:
            continue
        lengths = [int(n) for n in sizes.split(",") if n]
        tile = [int(n) for n in re.findall(r"\d+", layout.partition(")")[0])]
        # The tile lies over the axes that change fastest, which the order names first.
        axes = [int(axis) for axis in order.split(",") if axis]
        for axis, side in zip(axes, reversed(tile), strict=False):
            lengths[axis] = -(-lengths[axis] // side) * side
        total += WIDTHS[kind] * math.prod(lengths)
    return total


def traffic(program: str) -> list[Operation]:
    """The operations of a compiled program, as text, from the one that moves most on."""
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
        found.append(Operation(name, result, *place(origin), held_bytes(shape), read))
    return sorted(found, key=lambda operation: -operation.written - operation.read)
