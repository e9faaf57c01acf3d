"""Listed positions on the wire: the gaps between them, through ANS, or as plain bytes where they repeat.

Positions are taken to lie independently, at one density a piece. So gaps are geometric: the high bits of each are a
symbol of a model that says how fast longer ones get rarer, and the low bits are as good as random.
"""

from __future__ import annotations

import io
import math
from typing import BinaryIO

import numpy as np

from thinwire.wire.cursor import Cursor, put_plain, put_varint
from thinwire.wire.entropy import (
    FEW,
    Stream,
    geometric,
    pack_bits,
    packed_size,
    pieces,
    put_stream,
    share_bits,
    uint,
    unpack_bits,
    zstd_bits,
)

LARGEST = 1 << 32
"""Most entries of a leaf with listed positions."""
CODED, PLAIN = 0, 1
SHARP = 7
"""Leading bits of a density that are sent: few models, which are kept ready, for less than 1e-4 bits a gap."""
HEAD = 44.0
"""Bits that describe a piece, more or less."""


def put_positions(out: BinaryIO, indices: np.ndarray) -> None:
    """Sorted, distinct flat indices below LARGEST; their number is known to the reader."""
    before = -1
    for piece in pieces(len(indices)):
        _put_piece(out, np.diff(indices[piece], prepend=before) - 1)
        before = int(indices[piece.stop - 1])


def get_positions(cursor: Cursor, kept: int, size: int) -> np.ndarray:
    """The `kept` flat indices that `put_positions` wrote; int64, sorted, distinct, below `size`. Raises: WireError."""
    indices, before = np.empty(kept, np.int64), -1
    for piece in pieces(kept):
        indices[piece] = before + np.cumsum(_get_piece(cursor, piece.stop - piece.start) + 1)
        before = int(indices[piece.stop - 1])
        if before >= size:
            raise cursor.fail(f"position {before} of {size}")
    return indices


def _put_piece(out: BinaryIO, gaps: np.ndarray) -> None:
    """Entries skipped before each position: four planes of bytes, or symbols of a model, then their low bits."""
    count, span = len(gaps), int(gaps.sum()) + len(gaps)
    estimate = share_bits(count, span) + HEAD
    if estimate > FEW and zstd_bits(gaps.astype(np.uint8)) < 0.95 * estimate:
        plain = io.BytesIO()
        for plane in np.ascontiguousarray(gaps.astype("<u4").view(np.uint8).reshape(-1, 4).T):
            put_plain(plain, plane)
        if 8 * plain.tell() < 0.95 * estimate:
            out.write(bytes([PLAIN]) + plain.getvalue())
            return
    shift, ratio = _parameters(count, span)
    model, number = geometric(ratio)
    gaps = _runs(gaps, (number - 1) << shift)
    out.write(bytes((CODED, shift, ratio & 255, ratio >> 8)))
    put_varint(out, len(gaps))
    put_stream(out, [((gaps >> shift).astype(np.int32), model)])
    if shift:
        out.write(pack_bits((gaps & ((1 << shift) - 1)).astype(uint(shift)), shift))


def _get_piece(cursor: Cursor, count: int) -> np.ndarray:
    """Inverse of `_put_piece`: `count` gaps, int64, from at most twice as many symbols and two."""
    if cursor.byte(PLAIN, "coding of positions") == PLAIN:
        planes = [np.frombuffer(cursor.plain(count, "gaps"), np.uint8) for _ in range(4)]
        return np.ascontiguousarray(np.stack(planes, axis=1)).view("<u4").reshape(-1).astype(np.int64)
    shift = cursor.byte(31, "low bits of gaps")
    model, number = geometric(int.from_bytes(cursor.take(2), "little"))
    symbols = cursor.varint(2 * count + 2, "gaps")
    stream = Stream(cursor)
    symbol = stream.take(model, symbols)
    stream.end()
    steps = symbol.astype(np.int64) << shift
    if shift:
        steps |= unpack_bits(cursor.take(packed_size(symbols, shift)), symbols, shift)
    kept = symbol != number - 1
    if int(np.count_nonzero(kept)) != count:
        raise cursor.fail(f"{int(np.count_nonzero(kept))} positions, {count} announced")
    if not kept[-1:].all():
        raise cursor.fail("a gap without a position behind it")
    return steps if kept.all() else np.diff(np.cumsum(steps)[kept], prepend=0)


def _parameters(kept: int, size: int) -> tuple[int, int]:
    """(low bits, ratio): the share not kept, to the power 2^low, in 2^-16; symbols are 16..32 on average or low = 0."""
    shift = max(0, ((size - kept) // kept).bit_length() - 5)
    miss = math.log1p(-kept / size) if kept < size else -math.inf
    hit = round(-math.expm1(miss * (1 << shift)) * 65536)
    coarse = max(hit.bit_length() - SHARP, 0)
    return shift, 65536 - min(max(hit >> coarse << coarse, 1), 65536)


def _runs(gaps: np.ndarray, longest: int) -> np.ndarray:
    """The gaps, none above `longest`: one of `longest` or more takes several, all but the last of them `longest`."""
    extra = gaps // longest
    if not extra.any():
        return gaps
    found = np.full(len(gaps) + int(extra.sum()), longest, gaps.dtype)
    found[np.arange(len(gaps)) + np.cumsum(extra)] = gaps - extra * longest
    return found
