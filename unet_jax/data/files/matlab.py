"""Reader of the SBD masks, which are MATLAB 5 files."""

import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError

COMPRESSED, STRUCT, UINT8 = 15, 2, 9  # an element type and two array classes
MAX_BYTES = 2**24  # limit of the uncompressed size; SBD's masks have less than 2**19 pixels


def read_mat(path: pathlib.Path) -> np.ndarray:
    """Reads GTcls.Segmentation from a file of SBD's `cls` folder.

    scipy.io.loadmat is not used, because some damaged files crash it and the process with it.

    Returns:
      The mask of class ids, uint8 [H, W].

    Raises:
      UserError: the file is damaged or has other content.
    """
    try:
        data = path.read_bytes()
        if data[124:128] != b"\0\1IM":
            raise ValueError("not a MATLAB 5 file; MATLAB 7.3 files are HDF5")
        arrays = {name: array for name, *array in map(_parse, _variables(data[128:]))}
        kind, _, *parts = arrays.get(b"GTcls", (0, 0))
        if kind != STRUCT:
            raise ValueError("no struct GTcls")
        length, names, *fields = parts
        keys = struct.iter_unpack(f"{int.from_bytes(length, 'little')}s", names)
        place = [key.rstrip(b"\0") for (key,) in keys].index(b"Segmentation")
        _, kind, shape, *values = _parse(fields[place])
        if kind != UINT8 or len(shape) != 2:
            raise ValueError(f"Segmentation is not a uint8 array of 2 axes (its class is {kind})")
        return np.frombuffer(values[0], np.uint8).reshape(shape, order="F")
    except Exception as error:  # damaged data can fail anywhere
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: not an SBD mask ({reason}); download it again") from None


def _variables(data: bytes) -> Iterator[bytes]:
    """Yields the content of each variable, decompressed at the top level only."""
    for kind, content in _elements(data):
        yield from (x for _, x in _elements(_inflate(content))) if kind == COMPRESSED else [content]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields type and content of each MATLAB 5 data element."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        start, end = place + 8, place + 8 + size + (0 if kind == COMPRESSED else -size % 8)
        if kind >> 16:  # a small element: up to 4 bytes, stored in the tag
            size, start, end = kind >> 16, place + 4, place + 8
        content, place = data[start : start + size], end
        if len(content) < size:
            raise ValueError("the data is truncated")
        yield kind, content


def _inflate(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(content, MAX_BYTES)
    if not stream.eof:
        raise ValueError(f"damaged, or more than {MAX_BYTES} bytes uncompressed")
    return data


def _parse(data: bytes) -> tuple[Any, ...]:
    """Returns an array's name, class (with its flags) and shape, then its remaining elements."""
    flags, shape, name, *parts = (content for _, content in _elements(data))
    return name, int.from_bytes(flags[:2], "little"), np.frombuffer(shape, "<i4"), *parts
