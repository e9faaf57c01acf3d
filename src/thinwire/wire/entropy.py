"""Symbols through an ANS coder (`constriction`); models are integers that add up to 2^24, exact on every platform."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO

import constriction
import numpy as np

from thinwire.wire.cursor import Cursor, put_plain, put_varint, zstd

Symbols = np.ndarray
"""Small non-negative integers: uint8 or uint16, (n,)."""

CHUNK = 1 << 18
"""Most symbols coded at a time; bounds the working memory of sender and receiver."""

TABLE = 1 << 16
"""What the frequencies of a sent table add up to."""

TOTAL = 1 << 24
"""What the integers of a model add up to."""

CONSTANT, PLAIN, PACKED, CODED = range(4)
SAMPLE = 256
"""Symbols in each of four samples by which zstd is judged."""
FEW = 512
"""Bits of symbols up to which zstd is not tried."""
WORD = np.dtype("<u4")


def pieces(count: int) -> Iterator[slice]:
    """Slices of at most CHUNK that cover range(count)."""
    return (slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK))


def categorical(weights: np.ndarray) -> Any:
    """A model of n >= 2 integers, each at least 1, with sum 2^24.

    `constriction` gives symbol i the share `floor(c_(i+1)) - floor(c_i) + 1`, c being the sums of what it is given
    scaled to 2^24 - n; given `weights - 1` the scale is 1 and every step exact.
    """
    return constriction.stream.model.Categorical((weights - 1).astype(np.float64), perfect=False)


def put_stream(out: BinaryIO, parts: Iterable[tuple[np.ndarray, Any]]) -> None:
    """(symbols int32, model) pairs as one ANS stream: number of 32-bit words, words; decoded in the order given."""
    coder = constriction.stream.stack.AnsCoder()
    for symbols, model in reversed(list(parts)):
        coder.encode_reverse(symbols, model)
    words = coder.get_compressed().astype(WORD)
    put_varint(out, len(words))
    out.write(words.tobytes())


class Stream:
    """What `put_stream` wrote, decoded part by part. Raises: WireError."""

    def __init__(self, cursor: Cursor) -> None:
        words = np.frombuffer(cursor.take(WORD.itemsize * cursor.varint(cursor.left // WORD.itemsize, "words")), WORD)
        if len(words) and words[-1] == 0:
            raise cursor.fail("coded symbols end in a zero word")
        self._cursor, self._coder = cursor, constriction.stream.stack.AnsCoder(words.astype(np.uint32))

    def take(self, model: Any, count: int) -> np.ndarray:
        """The next `count` symbols, int32."""
        return self._coder.decode(model, count)

    def end(self) -> None:
        """Raises: WireError unless the stream is used up exactly."""
        if not self._coder.is_empty():
            raise self._cursor.fail("coded symbols do not end where they should")


def bits(counts: np.ndarray) -> float:
    """Bits that symbols with these counts need at their order-0 entropy."""
    total = int(counts.sum())
    return total * math.log2(max(total, 1)) - log_sum(counts)


def share_bits(part: int, total: int) -> float:
    """Bits that say which `part` of `total` it is, at their order-0 entropy."""
    return sum(sign * n * math.log2(n) for sign, n in ((1, total), (-1, part), (-1, total - part)) if n)


def n_log_n(counts: np.ndarray) -> np.ndarray:
    """`n log2 n` of each count n."""
    numbers = np.maximum(counts, 1.0)
    return numbers * np.log2(numbers)


def log_sum(counts: np.ndarray) -> float:
    """Sum of `n log2 n` over counts n."""
    numbers = np.maximum(counts, 1.0)
    return float(numbers @ np.log2(numbers))


def table_bits(used: int) -> int:
    """Estimated bits of a sent table of `used` symbols, and of what else a stream costs."""
    return 18 * used + 80


def put_symbols(
    out: BinaryIO, symbols: Symbols, width: int, counts: np.ndarray | None = None, sample: int = SAMPLE
) -> None:
    """At most CHUNK symbols of `width` bits by what is smallest: one constant, zstd, `width` bits each, or ANS.

    counts: how often each symbol from 0 up occurs, if that is known. sample: symbols by which zstd is judged, times 4.
    """
    counts = np.bincount(symbols) if counts is None else counts
    used = counts.nonzero()[0]
    if len(used) <= 1:
        out.write(bytes([CONSTANT]))
        put_varint(out, int(used[0]) if len(used) else 0)
        return
    packed, coded = width * len(symbols), bits(counts) + table_bits(len(used))
    best = min(packed, coded)
    if best > FEW and zstd_bits(symbols, sample) < 0.98 * best:
        out.write(bytes([PLAIN]))
        put_plain(out, symbols)
    elif packed <= coded:
        out.write(bytes([PACKED]))
        out.write(pack_bits(symbols, width))
    else:
        out.write(bytes([CODED]))
        frequencies = _normalise(counts[used])
        _put_table(out, used, frequencies)
        place = np.zeros(len(counts), np.int32)
        place[used] = np.arange(len(used), dtype=np.int32)
        put_stream(out, [(place[symbols], categorical(frequencies * (TOTAL // TABLE)))])


def get_symbols(cursor: Cursor, count: int, width: int) -> Symbols:
    """The `count` symbols that `put_symbols` wrote; uint8 up to 8 bits, else uint16. Raises: WireError."""
    kind = uint(width)
    match cursor.byte(CODED, "coding of symbols"):
        case 0:
            return np.full(count, cursor.varint((1 << width) - 1, "symbol"), kind)
        case 1:
            symbols = np.frombuffer(cursor.plain(count * kind.itemsize, "symbols"), kind)
            if count and int(symbols.max()) >> width:
                raise cursor.fail(f"symbol beyond {width} bits")
            return symbols
        case 2:
            return unpack_bits(cursor.take(packed_size(count, width)), count, width).astype(kind, copy=False)
    used, frequencies = _get_table(cursor, width)
    stream = Stream(cursor)
    symbols = used.astype(kind)[stream.take(categorical(frequencies * (TOTAL // TABLE)), count)]
    stream.end()
    return symbols


def zstd_bits(data: np.ndarray, part: int = SAMPLE) -> float:
    """Estimate of what zstd needs for all of the data, from four samples of `part` items spread over it."""
    sample = data
    if len(data) > 4 * part:
        sample = np.concatenate([data[at : at + part] for at in range(0, len(data) - part + 1, len(data) // 4)])
    return 8 * len(zstd(sample.tobytes(), quick=True)) * len(data) / max(len(sample), 1)


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Bit planes from the lowest to the highest, each padded to whole bytes, the first value in the top bit."""
    return np.packbits(values & (1 << np.arange(width, dtype=values.dtype))[:, None] != 0, axis=1).tobytes()


def packed_size(count: int, width: int) -> int:
    """Bytes that `pack_bits` needs."""
    return width * ((count + 7) // 8)


def unpack_bits(data: memoryview | bytes, count: int, width: int) -> np.ndarray:
    """Inverse of `pack_bits`; unsigned integers of `uint(width)`."""
    kind = uint(width)
    planes = np.unpackbits(np.frombuffer(data, np.uint8).reshape(width, -1), axis=1, count=count)
    values = planes[0].astype(kind)
    for bit in range(1, width):
        values |= planes[bit].astype(kind, copy=False) << kind.type(bit)
    return values


def uint(width: int) -> np.dtype[Any]:
    """The smallest unsigned integers of `width` bits, up to 32."""
    return np.dtype("<u1" if width <= 8 else "<u2" if width <= 16 else "<u4")


@lru_cache(maxsize=512)
def geometric(ratio: int) -> tuple[Any, int]:
    """(model, number of symbols n) of lengths i with chances falling by `ratio / 2^16`; symbol n-1 is "longer".

    In integers: `t_0 = 2^40, t_(i+1) = floor(t_i ratio / 2^16)`, n the first i in 2..256 with `t_i < 2^16` (or 256),
    `c_i = floor(floor(t_i / 2^16) (2^24 - n) / 2^24)`, weights `c_i - c_(i+1) + 1` with `c_n = 0`.
    """
    tails = [1 << 40]
    while len(tails) < 256 and (len(tails) < 2 or tails[-1] >> 16):
        tails.append(tails[-1] * ratio >> 16)
    size = len(tails)
    ends = [(tail >> 16) * (TOTAL - size) >> 24 for tail in tails] + [0]
    return categorical(-np.diff(np.array(ends)) + 1), size


def _normalise(counts: np.ndarray) -> np.ndarray:
    """Frequencies of at least 1 with sum TABLE, in proportion to the counts."""
    free = TABLE - len(counts)
    frequencies = counts.astype(np.int64) * free // int(counts.sum()) + 1
    frequencies[frequencies.argmax()] += TABLE - int(frequencies.sum())
    return frequencies


def _put_table(out: BinaryIO, used: np.ndarray, frequencies: np.ndarray) -> None:
    """Runs of neighbouring symbols (symbols skipped, length), a zero length, then the frequencies but the last."""
    stops = (used[1:] - used[:-1] > 1).nonzero()[0].tolist()
    members, end = used.tolist(), 0
    for start, stop in zip([0, *(stop + 1 for stop in stops)], [*stops, len(members) - 1], strict=True):
        put_varint(out, stop - start + 1, members[start] - end)
        end = members[stop] + 1
    put_varint(out, 0, *frequencies[:-1].tolist())


def _get_table(cursor: Cursor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `_put_table`. Raises: WireError."""
    used: list[int] = []
    end = 0
    while length := cursor.varint((1 << width) - end, "symbols in a row"):
        start = end + cursor.varint((1 << width) - end - length, "symbols skipped")
        end = start + length
        used.extend(range(start, end))
    if len(used) < 2:
        raise cursor.fail("a table of fewer than 2 symbols")
    frequencies = cursor.varints(len(used) - 1, TABLE - 1, "frequency")
    return np.array(used), np.array([*frequencies, TABLE - sum(frequencies)], np.int64)
