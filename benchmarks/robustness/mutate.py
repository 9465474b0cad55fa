"""Damaged and hostile variants of a file: bytes, numbers, lines, and what checksums hide.

A mutation takes a file's content, another valid one, and a generator, and returns new content.
Formats with checksums or compression have mutations of their own, which unpack, mutate what is
inside, and pack again, so that the damage comes as far as the decoder.
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
    """One to eight bits changed."""
    return _scatter(content, rng, lambda byte: byte ^ 1 << rng.randrange(8))


def overwrite(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """One to eight bytes made 0, 255 or another value."""
    return _scatter(content, rng, lambda _: rng.choice((0, 255, rng.randrange(256))))


def number(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A telling integer of 1 to 8 bytes, mostly near the head."""
    size, order = rng.choice((1, 2, 2, 4, 4, 4, 8)), rng.choice(("little", "big"))
    end = min(len(content), rng.choice((32, 64, 256, len(content))))
    place = rng.randrange(max(end - size, 1))
    value = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
    return content[:place] + value + content[place + size :]


def truncate(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Cut anywhere, or just before the end."""
    return content[: rng.randrange(max(len(content) - rng.choice((0, 0, len(content) - 16)), 1))]


def insert(content: bytes, _: bytes, rng: random.Random) -> bytes:
    place, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 16, 300))
    added = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return content[:place] + added + content[place:]


def repeat(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A block comes twice, or many times."""
    start, end = _block(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def remove(content: bytes, _: bytes, rng: random.Random) -> bytes:
    start, end = _block(content, rng)
    return content[:start] + content[end:]


def blank(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A block made 0 or 255, as a disk that lost a sector gives it."""
    start, end = _block(content, rng)
    return content[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + content[end:]


def swap(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Two blocks of one size change places."""
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
    """The head of one file and the tail of another."""
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def lines(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A line repeated, removed, or taken from the other file."""
    kept = content.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(kept))
    kept[place : place + rng.randrange(2)] = rng.choices(other.splitlines(True) or [b""], k=2)
    return b"".join(kept)


def token(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A word, number or bracket of a text replaced by something that is no good there."""
    found = [*re.finditer(rb'"[^"\n]*"|[\w.+-]+|[\[\]{}:,]', content)]
    start, end = rng.choice(found).span() if found else (0, 0)
    return content[:start] + rng.choice(TOKENS).encode() + content[end:]


def tree(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A value or a name in JSON, or in a line of it, replaced by another; the rest is as it was."""
    try:
        json.loads(content)
        parts = [content]
    except ValueError:
        parts = content.splitlines()
    place = rng.randrange(len(parts))
    root = [json.loads(parts[place])]
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
    parts[place] = json.dumps(root[0]).encode()
    return b"\n".join(parts) + b"\n"


BYTES: tuple[Mutation, ...] = (
    flip, overwrite, number, number, truncate, insert, repeat, remove, blank, swap, splice,
)  # fmt: skip
TEXT: tuple[Mutation, ...] = (*BYTES, lines, lines, token, token, token, token)
JSON: tuple[Mutation, ...] = (*TEXT, *[tree] * 12)


def png(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Chunks mutated, moved, or taken from the other file; every checksum is right again."""
    chunks, others = png_chunks(content), png_chunks(other)
    place = rng.randrange(len(chunks))
    action = rng.randrange(8)
    if action == 0:
        del chunks[place]
    elif action == 1:
        chunks.insert(place, rng.choice(others))
    elif action == 2:
        chunks.insert(rng.randrange(len(chunks)), chunks[place])
    else:
        if action > 5:
            place = 0  # sizes, bit depth, kind of colours, interlacing
        kind, data = chunks[place]
        if kind == b"IDAT" and action > 3:
            data = inflate(data)
            chunks[place] = kind, zlib.compress(any_of(BYTES)(data, data, rng))
        else:
            chunks[place] = kind, any_of(BYTES)(data, rng.choice(others)[1], rng)
    return content[:8] + b"".join(map(png_chunk, *zip(*chunks, strict=True)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    return chunks


def tiff(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """One to three fields of directory entries replaced: tag, type, count or value."""
    order, big = ("<" if content[:2] == b"II" else ">"), content[2:4] in (b"+\0", b"\0+")
    head, entry, tail = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    (place,) = struct.unpack_from(order + tail, content, 8 if big else 4)
    places, seen = [], {0}
    while place not in seen:  # an earlier mutation may have closed a circle, or changed a count
        seen.add(place)
        (count,) = struct.unpack_from(order + head, content, place)
        count = min(count, 100)
        place += struct.calcsize(order + head)
        places += [place + i * struct.calcsize(order + entry) for i in range(count)]
        place += count * struct.calcsize(order + entry)
        (place,) = struct.unpack_from(order + tail, content, place)
    changed = bytearray(content)
    for place in rng.choices(places, k=rng.choice((1, 1, 2, 3))):
        fields = [*struct.unpack_from(order + entry, changed, place)]
        which, top = rng.choice((0, 1, 2, 3, 3, 3, 3)), 2**64 if big else 2**32
        near = fields[which] + rng.choice((-1, 1, 8, 16))
        value = rng.choice((*NUMBERS, near, near, fields[which] * 2, fields[which] // 2, 2**40))
        fields[which] = value % (2**16 if which < 2 else top)
        if order == ">" and which == 3 and fields[2] == 1 and fields[1] == 3:
            fields[3] = (value % 2**16) << (48 if big else 16)  # a short fills the left half
        struct.pack_into(order + entry, changed, place, *fields)
    return bytes(changed)


def jpeg(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A segment before the scan mutated, its length made right; removed; or moved."""
    segments, rest = jpeg_segments(content)
    others, _ = jpeg_segments(other)
    place, action = rng.randrange(len(segments)), rng.randrange(6)
    if action == 0:
        del segments[place]
    elif action == 1:
        segments.insert(place, rng.choice(others))
    else:
        kind, data = segments[place]
        segments[place] = kind, any_of(BYTES)(data, rng.choice(others)[1], rng)[:65000]
    packed = (b"\xff%c" % k + struct.pack(">H", len(data) + 2) + data for k, data in segments)
    return content[:2] + b"".join(packed) + rest


def jpeg_segments(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Marker and data of each segment up to the first scan, and all from the scan on."""
    segments, place = [], 2
    while content[place + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, place + 2)
        segments.append((content[place + 1], content[place + 4 : place + 2 + size]))
        place += 2 + size
    return segments, content[place:]


def mat(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A variable of a MATLAB 5 file mutated beneath its compression."""
    kind, size = struct.unpack_from("<II", content, 128)
    data = content[136 : 136 + size]
    if kind != 15:
        return content[:128] + any_of(BYTES)(content[128:], other, rng)
    inner = any_of(BYTES)(inflate(data), inflate(other[136:]) or other, rng)
    if rng.randrange(20) == 0:
        inner = rng.choice((bytes(2**25), struct.pack("<II", 15, size) + data))  # a bomb, a nest
    packed = zlib.compress(inner)
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


def tar(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A header's fields mutated, its checksum made right; gzip, where it is, unpacked before."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(tar(gzip.decompress(content), other, rng), 6)
    places = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    if not places:
        return any_of(BYTES)(content, other, rng)
    place = rng.choice(places)
    header = bytearray(content[place : place + 512])
    start, end = rng.choice(((0, 100), (100, 108), (124, 136), (124, 136), (156, 157), (157, 257)))
    values = [b"../../x", b"/x", b"0" * 11, b"7" * 11, b"\x80" + b"\0" * 6 + b"\1\0\0\0\0"]
    values += [b"xgLKSV1235"[i : i + 1] for i in range(10)] + [rng.randbytes(end - start)]
    header[start:end] = rng.choice(values)[: end - start].ljust(end - start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:place] + bytes(header) + content[place + 512 :]


def zipped(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """A field of a zip's directory replaced, in both of its places where there are two."""
    places = [found.start() for found in re.finditer(rb"PK\1\2", content)]
    place = rng.choice(places or [0])
    offset, size = rng.choice(
        ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (38, 4), (42, 4), (46, 8))
    )
    if offset == 46:
        value = rng.choice((b"../../xx", b"/tmp/xxx", b"C:\\xxxxx", b"\0" * 8, b"a/../../"))
    else:
        value = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little")
    changed = content[: place + offset] + value + content[place + offset + size :]
    local = content[place + 42 : place + 46]
    if 8 <= offset <= 28 and len(local) == 4 and rng.randrange(2):
        (start,) = struct.unpack("<I", local)
        start += offset - 2
        changed = changed[:start] + value + changed[start + size :]
    return changed


def any_of(mutations: Sequence[Mutation]) -> Mutation:
    return lambda content, other, rng: rng.choice(mutations)(content, other, rng)


def _scatter(content: bytes, rng: random.Random, change: Callable[[int], int]) -> bytes:
    changed = bytearray(content)
    head = rng.choice((len(changed), len(changed), 64))
    for _ in range(rng.randint(1, 8) if changed else 0):
        place = rng.randrange(min(head, len(changed)))
        changed[place] = change(changed[place])
    return bytes(changed)


def _block(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(start + rng.choice((1, 2, 4, 8, 64, 512)), len(content))


def inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data)
    except zlib.error:
        return data
