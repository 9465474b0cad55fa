"""Mutations that damage a file: its bytes, numbers, lines, and data behind checksums.

A mutation is a function of a file's content, the content of another valid file, and a random
generator, and returns the mutated content. Formats with checksums or compression also have their
own mutations, which unpack, mutate and repack the content, so that the damage reaches the decoder.
"""

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, bytes, random.Random], bytes]

NUMBERS = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 31623, 10**5, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    'NaN -Infinity 1e999 -1 0 null true [] {} [[]] "" ../../x /etc/passwd \0 é \u2028 9999999999999'
    " __import__('os') !!python/object/apply:os.system"
)
TOKENS = [*WORDS.split(" "), "\r", "\n\n", "9" * 5000, "x" * 70_000, "[" * 3000, '{"a":' * 3000]
VALUES = (
    None,
    True,
    False,
    "",
    "x",
    "\0",
    [],
    {},
    [[]],
    [{}],
    ["x"],
    [1, 2],
    0.5,
    -0.5,
    1e308,
    1e-320,
)
VALUES += (float("nan"), float("inf"), 10**25, 2**63, -(2**63), "../../x", "flip", "bce")


def flip(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Flips one to eight bits."""
    return _scatter(content, rng, lambda byte: byte ^ 1 << rng.randrange(8))


def overwrite(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Overwrites one to eight bytes with 0, 255 or a random value."""
    return _scatter(content, rng, lambda _: rng.choice((0, 255, rng.randrange(256))))


def number(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Overwrites 1 to 8 bytes with an integer from `NUMBERS`, mostly near the start."""
    size, order = rng.choice((1, 2, 2, 4, 4, 4, 8)), rng.choice(("little", "big"))
    end = min(len(content), rng.choice((32, 64, 256, len(content))))
    position = rng.randrange(max(end - size, 1))
    value = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
    return content[:position] + value + content[position + size :]


def truncate(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Truncates at a random position, or within the first 16 bytes."""
    return content[: rng.randrange(max(len(content) - rng.choice((0, 0, len(content) - 16)), 1))]


def insert(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Inserts 1 to 300 bytes, which are all 0, all 255 or random."""
    position, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 16, 300))
    added = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return content[:position] + added + content[position:]


def repeat(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Repeats a block, up to 50 times."""
    start, end = _block(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def remove(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Removes a block."""
    start, end = _block(content, rng)
    return content[:start] + content[end:]


def blank(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Overwrites a block with 0 or 255, as a lost disk sector does."""
    start, end = _block(content, rng)
    return content[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + content[end:]


def swap(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Swaps two blocks of equal size."""
    start, end = _block(content[: len(content) // 2], rng)
    other = rng.randrange(end, len(content) - (end - start) + 1) if len(content) > 1 else end
    size, middle = end - start, content[end:other]
    return (
        content[:start]
        + content[other : other + size]
        + middle
        + content[start:end]
        + content[other + size :]
    )


def splice(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Joins the start of one file to the end of another."""
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def lines(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Inserts two lines of the other file at a random line, which is replaced or kept."""
    kept = content.splitlines(keepends=True) or [b""]
    position = rng.randrange(len(kept))
    kept[position : position + rng.randrange(2)] = rng.choices(other.splitlines(True) or [b""], k=2)
    return b"".join(kept)


def token(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Replaces a word, number or bracket of a text by a hostile token."""
    found = [*re.finditer(rb'"[^"\n]*"|[\w.+-]+|[\[\]{}:,]', content)]
    start, end = rng.choice(found).span() if found else (0, 0)
    return content[:start] + rng.choice(TOKENS).encode() + content[end:]


def tree(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Replaces a value or a key in JSON or in a line of JSON Lines; the rest is unchanged."""
    try:
        json.loads(content)
        parts = [content]
    except ValueError:
        parts = content.splitlines()
    position = rng.randrange(len(parts))
    root = [json.loads(parts[position])]
    node: Any = root
    key: Any = 0
    while isinstance(node[key], dict | list) and node[key] and rng.randrange(5):
        node = node[key]
        key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
    value = rng.choice((*VALUES, *NUMBERS, -1, node[key], [node[key]], {"a": node[key]}))
    if rng.randrange(4) == 0 and isinstance(node, dict):
        value = node.pop(key)
        key = rng.choice(("", "step", "config", "x.y", "\0", f"{key}s"))
    node[key] = value
    parts[position] = json.dumps(root[0]).encode()
    return b"\n".join(parts) + b"\n"


BYTES: tuple[Mutation, ...] = (
    flip, overwrite, number, number, truncate, insert, repeat, remove, blank, swap, splice,
)  # fmt: skip
TEXT: tuple[Mutation, ...] = (*BYTES, lines, lines, token, token, token, token)
JSON: tuple[Mutation, ...] = (*TEXT, *[tree] * 12)


def png(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Mutates, removes, copies or inserts a PNG chunk, with valid checksums."""
    chunks, others = png_chunks(content), png_chunks(other)
    position = rng.randrange(len(chunks))
    action = rng.randrange(8)
    if action == 0:
        del chunks[position]
    elif action == 1:
        chunks.insert(position, rng.choice(others))
    elif action == 2:
        chunks.insert(rng.randrange(len(chunks)), chunks[position])
    else:
        if action > 5:
            position = 0  # the header: size, bit depth, colour type, interlacing
        kind, data = chunks[position]
        if kind == b"IDAT" and action > 3:
            data = inflate(data)
            chunks[position] = kind, zlib.compress(any_of(BYTES)(data, data, rng))
        else:
            chunks[position] = kind, any_of(BYTES)(data, rng.choice(others)[1], rng)
    return content[:8] + b"".join(map(png_chunk, *zip(*chunks, strict=True)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Encodes a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the type and data of each chunk of a PNG file, without verifying checksums."""
    chunks, position = [], 8
    while position < len(content):
        (size,) = struct.unpack_from(">I", content, position)
        chunks.append(
            (content[position + 4 : position + 8], content[position + 8 : position + 8 + size])
        )
        position += size + 12
    return chunks


def tiff(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Replaces one to three fields (tag, type, count or value) of directory entries."""
    order, big = ("<" if content[:2] == b"II" else ">"), content[2:4] in (b"+\0", b"\0+")
    head, entry, tail = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    (position,) = struct.unpack_from(order + tail, content, 8 if big else 4)
    offsets, seen = [], {0}
    while position not in seen:  # an earlier mutation may have created a cycle or changed a count
        seen.add(position)
        (count,) = struct.unpack_from(order + head, content, position)
        count = min(count, 100)
        position += struct.calcsize(order + head)
        offsets += [position + i * struct.calcsize(order + entry) for i in range(count)]
        position += count * struct.calcsize(order + entry)
        (position,) = struct.unpack_from(order + tail, content, position)
    changed = bytearray(content)
    for position in rng.choices(offsets, k=rng.choice((1, 1, 2, 3))):
        fields = [*struct.unpack_from(order + entry, changed, position)]
        which, top = rng.choice((0, 1, 2, 3, 3, 3, 3)), 2**64 if big else 2**32
        near = fields[which] + rng.choice((-1, 1, 8, 16))
        value = rng.choice((*NUMBERS, near, near, fields[which] * 2, fields[which] // 2, 2**40))
        fields[which] = value % (2**16 if which < 2 else top)
        if order == ">" and which == 3 and fields[2] == 1 and fields[1] == 3:
            # A big-endian short is stored in the upper bytes of the field.
            fields[3] = (value % 2**16) << (48 if big else 16)
        struct.pack_into(order + entry, changed, position, *fields)
    return bytes(changed)


def jpeg(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Mutates, removes or inserts a segment before the scan, with valid lengths."""
    segments, rest = jpeg_segments(content)
    others, _ = jpeg_segments(other)
    position, action = rng.randrange(len(segments)), rng.randrange(6)
    if action == 0:
        del segments[position]
    elif action == 1:
        segments.insert(position, rng.choice(others))
    else:
        kind, data = segments[position]
        segments[position] = kind, any_of(BYTES)(data, rng.choice(others)[1], rng)[:65000]
    packed = (b"\xff%c" % k + struct.pack(">H", len(data) + 2) + data for k, data in segments)
    return content[:2] + b"".join(packed) + rest


def jpeg_segments(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Returns marker and data of each segment before the first scan, and the rest of the file."""
    segments, position = [], 2
    while content[position + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, position + 2)
        segments.append((content[position + 1], content[position + 4 : position + 2 + size]))
        position += 2 + size
    return segments, content[position:]


def mat(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Mutates the uncompressed data of a variable in a MATLAB 5 file, and compresses it again."""
    kind, size = struct.unpack_from("<II", content, 128)
    data = content[136 : 136 + size]
    if kind != 15:
        return content[:128] + any_of(BYTES)(content[128:], other, rng)
    inner = any_of(BYTES)(inflate(data), inflate(other[136:]) or other, rng)
    if rng.randrange(20) == 0:
        # A decompression bomb, or a compressed variable within a compressed one.
        inner = rng.choice((bytes(2**25), struct.pack("<II", 15, size) + data))
    packed = zlib.compress(inner)
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


def tar(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Replaces a field of a header and corrects its checksum, within gzip if it is compressed."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(tar(gzip.decompress(content), other, rng), 6)
    offsets = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    if not offsets:
        return any_of(BYTES)(content, other, rng)
    position = rng.choice(offsets)
    header = bytearray(content[position : position + 512])
    start, end = rng.choice(((0, 100), (100, 108), (124, 136), (124, 136), (156, 157), (157, 257)))
    values = [b"../../x", b"/x", b"0" * 11, b"7" * 11, b"\x80" + b"\0" * 6 + b"\1\0\0\0\0"]
    values += [b"xgLKSV1235"[i : i + 1] for i in range(10)] + [rng.randbytes(end - start)]
    header[start:end] = rng.choice(values)[: end - start].ljust(end - start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:position] + bytes(header) + content[position + 512 :]


def zipped(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Replaces a field of a zip's central directory and, half of the time, of the local header."""
    offsets = [found.start() for found in re.finditer(rb"PK\1\2", content)]
    position = rng.choice(offsets or [0])
    offset, size = rng.choice(
        ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (38, 4), (42, 4), (46, 8))
    )
    if offset == 46:
        value = rng.choice((b"../../xx", b"/tmp/xxx", b"C:\\xxxxx", b"\0" * 8, b"a/../../"))
    else:
        value = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little")
    changed = content[: position + offset] + value + content[position + offset + size :]
    local = content[position + 42 : position + 46]
    if 8 <= offset <= 28 and len(local) == 4 and rng.randrange(2):
        (start,) = struct.unpack("<I", local)
        start += offset - 2
        changed = changed[:start] + value + changed[start + size :]
    return changed


def any_of(mutations: Sequence[Mutation]) -> Mutation:
    """Returns a mutation that applies a random one of `mutations`."""
    return lambda content, other, rng: rng.choice(mutations)(content, other, rng)


def _scatter(content: bytes, rng: random.Random, change: Callable[[int], int]) -> bytes:
    changed = bytearray(content)
    head = rng.choice((len(changed), len(changed), 64))
    for _ in range(rng.randint(1, 8) if changed else 0):
        position = rng.randrange(min(head, len(changed)))
        changed[position] = change(changed[position])
    return bytes(changed)


def _block(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(start + rng.choice((1, 2, 4, 8, 64, 512)), len(content))


def inflate(data: bytes) -> bytes:
    """Decompresses zlib data; returns the input if it is damaged."""
    try:
        return zlib.decompressobj().decompress(data)
    except zlib.error:
        return data
