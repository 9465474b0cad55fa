"""Images of every format whose headers claim far more pixels than the file has data for."""

import random
import struct
import zlib

from benchmarks.robustness.mutate import jpeg_segments, png_chunk, png_chunks

# Below, at and beyond the limits of decoders, of 32-bit integers and of a machine's memory.
SIDES = (5_000, 9_400, 30_000, 60_000, 65_535, 10**6, 2**24, 2**31 - 1, 2**32 - 1)


def giant(content: bytes, _: bytes, rng: random.Random) -> bytes:
    """Replaces the size in an image's header by a giant one, in one direction or in both."""
    width, height = _size(rng)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        chunks = png_chunks(content)
        kind, data = chunks[0]
        size = struct.pack(">II", min(width, 2**31 - 1), min(height, 2**31 - 1))
        chunks[0] = kind, size + data[8:]
        return content[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)
    if content[:2] == b"BM":
        return content[:18] + struct.pack("<II", width, height) + content[26:]
    if content[:3] == b"GIF":
        size = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
        # The first frame, whose descriptor repeats the size, follows the global colour table.
        place = content.index(b",", 13 + 3 * 2 ** (1 + (content[10] & 7)))
        return content[:6] + size + content[10 : place + 5] + size + content[place + 9 :]
    if content[:2] == b"\xff\xd8":
        segments, rest = jpeg_segments(content)
        size = struct.pack(">HH", min(height, 65_535), min(width, 65_535))
        resized = (
            (kind, data[:1] + size + data[5:] if kind in (0xC0, 0xC2) else data)
            for kind, data in segments
        )
        packed = (b"\xff%c" % k + struct.pack(">H", len(data) + 2) + data for k, data in resized)
        return content[:2] + b"".join(packed) + rest
    return lying_tiff(rng)


def lying_tiff(rng: random.Random) -> bytes:
    """Builds a small TIFF (200 bytes to 200 kB) that claims a giant size.

    It may be sparse, claim a huge number of tiles, or have many pages that share their pixels. It
    is a classic TIFF or a BigTIFF, in strips or tiles, and claims no, deflate or LZW compression.
    """
    big, tiled, pages = rng.randrange(2), rng.randrange(2), rng.choice((1, 1, 2, 50, 400))
    compression = rng.choice((1, 8, 5))
    width, height = _size(rng)
    bits = rng.choice((8, 16))
    tile = rng.choice((16, 256, 1024, 2**16, 2**31 - 16))
    rows = rng.choice((1, 64, height))
    if tiled:
        segments = -(-width // tile) * -(-height // tile)
    else:
        segments = -(-height // rows)
    pixels = bytes(2**14) if compression == 1 else zlib.compress(bytes(rng.choice((2**14, 2**20))))
    start = 16 if big else 8
    # The table has the required number of strips or tiles up to a limit, or a single entry.
    table = min(segments, rng.choice((1, 2, 5_000)))
    claimed = rng.choice((table, segments)) % 2**32
    word, long = ("Q", 16) if big else ("I", 4)
    sparse = rng.choice((0, 0.5, 1))
    offsets = [0 if rng.random() < sparse else start for _ in range(table)]
    counts = [len(pixels) if offset else 0 for offset in offsets]
    tables = start + len(pixels)
    content = struct.pack(f"<{2 * table}{word}", *offsets, *counts)
    directory = tables + len(content)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression)]
    tags += [(262, 3, 1, 1), (277, 3, 1, 1)]
    step = 8 if big else 4
    found = (tables, tables + table * step) if table > 1 else (offsets[0], counts[0])
    first, second = (324, 325) if tiled else (273, 279)
    tags += [(322, 4, 1, tile), (323, 4, 1, tile)] if tiled else [(278, 4, 1, rows)]
    tags += [(first, long, claimed, found[0]), (second, long, claimed, found[1])]
    entry, count = ("<HHQQ", "<Q") if big else ("<HHII", "<H")
    packed = struct.pack(count, len(tags)) + b"".join(struct.pack(entry, *x) for x in sorted(tags))
    length, chain = len(packed) + step, b""
    for page in range(pages):
        following = directory + (page + 1) * length if page < pages - 1 else 0
        chain += packed + struct.pack(f"<{word}", following)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, directory)
    head = head if big else struct.pack("<2sHI", b"II", 42, directory)
    return head + pixels + content + chain


def _size(rng: random.Random) -> tuple[int, int]:
    sides = rng.choice(SIDES), rng.choice((1, 32, *SIDES))
    return sides if rng.randrange(2) else sides[::-1]
