"""Listed positions on the wire: gaps through ANS, with a density for each class of rows and of columns.

A leaf is seen as a grid, cut into chunks of rows. Rows and columns of a chunk are sorted into classes of similar
density; rows of one class, restricted to columns of one class, are read as one line in which kept entries are taken to
lie independently, so that gaps are geometric. One class of each is the global density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from thinwire.wire.cursor import Cursor, put_plain, put_varint
from thinwire.wire.entropy import (
    CHUNK,
    Stream,
    bits,
    geometric,
    get_symbols,
    log_sum,
    pack_bits,
    packed_size,
    put_stream,
    put_symbols,
    unpack_bits,
    zstd_bits,
)

GRID, GAPS = 0, 1
CLASS_BITS = 6
ROWS = 1 << 18
"""Most rows of a chunk."""
FLAT, WIDEST = 1024, CHUNK // 2
"""Width of the grid for leaves without rows of 2..WIDEST entries."""
SHARP = 7
"""Leading bits of a density that are sent: few models, which are kept ready, for less than 1e-4 bits a gap."""
STEPS = (1, 2, 4)
"""Classes an octave of density that are tried."""


def grid_width(shape: tuple[int, ...]) -> int:
    """Entries of a row."""
    width = math.prod(shape[1:])
    return width if len(shape) > 1 and 2 <= width <= WIDEST else FLAT


@dataclass(frozen=True)
class Grid:
    """Classes of the rows and of the columns of one chunk; uint8 (rows,) and (columns,)."""

    rows: np.ndarray
    columns: np.ndarray

    @cached_property
    def row_order(self) -> np.ndarray:
        """Rows by class."""
        return np.argsort(self.rows, kind="stable")

    @cached_property
    def column_order(self) -> np.ndarray:
        return np.argsort(self.columns, kind="stable")

    @cached_property
    def heights(self) -> np.ndarray:
        """Rows in each class."""
        return np.bincount(self.rows)

    @cached_property
    def widths(self) -> np.ndarray:
        """Columns in each class."""
        return np.bincount(self.columns)

    @property
    def sizes(self) -> np.ndarray:
        """Entries in each cell (row class, column class), flat."""
        return np.outer(self.heights, self.widths).reshape(-1)

    @cached_property
    def bases(self) -> np.ndarray:
        """Place of each cell's first entry when cells follow one another, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def cells(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Cell of each entry."""
        return self.rows[row].astype(np.int32) * len(self.widths) + self.columns[column]

    def line(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Sorted places of the entries when cells follow one another; int64."""
        rank = _ranks(self.row_order, self.heights)
        across = _ranks(self.column_order, self.widths)
        cell = self.cells(row, column)
        return np.sort(self.bases[cell] + rank[row] * self.widths[self.columns[column]] + across[column])

    def entries(self, cell: int, place: np.ndarray) -> np.ndarray:
        """Flat entries (row * columns + column) of places within a cell; int64."""
        down, across = divmod(cell, len(self.widths))
        rows = self.row_order[int(self.heights[:down].sum()) :]
        columns = self.column_order[int(self.widths[:across].sum()) :]
        row = place // self.widths[across]
        return rows[row] * len(self.columns) + columns[place - row * self.widths[across]]


def _ranks(order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Place of each member within its class."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rank


def put_positions(out: BinaryIO, indices: np.ndarray, shape: tuple[int, ...]) -> None:
    """Sorted, distinct flat indices; their number is known to the reader."""
    width = grid_width(shape)
    total, row, at = -(-math.prod(shape) // width), 0, 0
    while at < len(indices):
        rows = total - row
        if len(indices) - at > CHUNK:
            rows = int(indices[at + CHUNK]) // width - row
        rows = min(rows, ROWS)
        stop = at + int(np.searchsorted(indices[at : at + CHUNK], (row + rows) * width))
        put_varint(out, rows)
        put_varint(out, stop - at)
        if stop > at:
            _put_chunk(out, indices[at:stop] - row * width, rows, width)
        row, at = row + rows, stop


def get_positions(cursor: Cursor, kept: int, shape: tuple[int, ...]) -> np.ndarray:
    """The `kept` flat indices that `put_positions` wrote; int64, sorted, distinct, in the shape. Raises: WireError."""
    width, size = grid_width(shape), math.prod(shape)
    total, row, at = -(-size // width), 0, 0
    indices = np.empty(kept, np.int64)
    while at < kept:
        rows = cursor.varint(min(total - row, ROWS), "rows of a chunk")
        count = cursor.varint(min(kept - at, CHUNK, rows * width), "positions of a chunk")
        if rows < ROWS and count <= CHUNK - WIDEST and at + count < kept:
            raise cursor.fail(f"a chunk of {rows} rows and {count} positions is too small")
        if count:
            indices[at : at + count] = _get_chunk(cursor, count, rows, width) + row * width
        row, at = row + rows, at + count
    if kept and indices[-1] >= size:
        raise cursor.fail(f"position {indices[-1]} of {size}")
    return indices


def _put_chunk(out: BinaryIO, entries: np.ndarray, rows: int, width: int) -> None:
    """One chunk: plain gaps, or a grid's classes, its cells' models and one stream of gaps."""
    grid, estimate = choose(entries, rows, width)
    gaps = (np.diff(entries, prepend=-1) - 1).astype("<u4")
    if zstd_bits(gaps) < 0.95 * estimate:
        out.write(bytes([GAPS]))
        for plane in np.ascontiguousarray(gaps.view(np.uint8).reshape(-1, 4).T):
            put_plain(out, plane)
        return
    out.write(bytes([GRID]))
    put_symbols(out, grid.rows, CLASS_BITS)
    put_symbols(out, grid.columns, CLASS_BITS)
    if len(grid.sizes) > 1:
        row = entries.astype(np.uint32) // np.uint32(width)
        entries = grid.line(row, (entries - row * np.int64(width)).astype(np.uint32))
        starts = np.searchsorted(entries, grid.bases)
    else:
        starts = np.array([0, len(entries)])
    parts, low = [], []
    for cell, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        if start == stop:
            put_varint(out, 0)
            continue
        base, size = int(grid.bases[cell]), int(grid.sizes[cell])
        own = gaps if len(grid.sizes) == 1 else np.diff(entries[start:stop], prepend=base - 1) - 1
        shift, ratio = _parameters(stop - start, size)
        model, longest = geometric(ratio)
        symbols, rest = _runs(own, shift, longest - 1)
        put_varint(out, len(symbols))
        out.write(bytes([shift]))
        out.write(ratio.to_bytes(2, "little"))
        parts.append((symbols, model))
        low.append(pack_bits(rest, shift))
    put_stream(out, parts)
    for packed in low:
        out.write(packed)


def _get_chunk(cursor: Cursor, count: int, rows: int, width: int) -> np.ndarray:
    """Inverse of `_put_chunk`; sorted int64 entries."""
    if cursor.byte(GAPS, "coding of positions") == GAPS:
        return _get_gaps(cursor, count, rows * width)
    grid = Grid(get_symbols(cursor, rows, CLASS_BITS), get_symbols(cursor, width, CLASS_BITS))
    sizes, cells, allowed = grid.sizes.tolist(), [], 2 * count + 2 * len(grid.sizes)
    for cell, size in enumerate(sizes):
        symbols = cursor.varint(min(size, allowed), "gaps of a cell")
        if symbols:
            shift = cursor.byte(31, "low bits of gaps")
            cells.append((cell, symbols, shift, geometric(int.from_bytes(cursor.take(2), "little"))))
            allowed -= symbols
    stream = Stream(cursor)
    coded = [stream.take(model, symbols) for _, symbols, _, (model, _) in cells]
    stream.end()
    found = []
    for (cell, symbols, shift, (_, longest)), high in zip(cells, coded, strict=True):
        steps = high.astype(np.int64) << shift
        if shift:
            steps |= unpack_bits(cursor.take(packed_size(symbols, shift)), symbols, shift)
        kept = high != longest - 1
        steps += kept
        places = np.cumsum(steps)
        if places[-1] > sizes[cell]:
            raise cursor.fail("a position lies outside its cell")
        if not kept.all():
            places = places[kept]
        places -= 1
        found.append(places if len(sizes) == 1 else grid.entries(cell, places))
    entries = np.concatenate(found) if len(found) != 1 else found[0]
    if len(entries) != count:
        raise cursor.fail(f"{len(entries)} positions, {count} announced")
    return np.sort(entries) if len(sizes) > 1 else entries


def _get_gaps(cursor: Cursor, count: int, size: int) -> np.ndarray:
    """Entries from plain gaps."""
    gaps = np.zeros(count, np.int64)
    for byte in range(4):
        plane = np.frombuffer(cursor.plain(count, "gaps"), np.uint8)
        gaps |= plane.astype(np.int64) << 8 * byte
    entries = np.cumsum(gaps + 1) - 1
    if entries[-1] >= size:
        raise cursor.fail(f"position {entries[-1]} of {size}")
    return entries


def _parameters(kept: int, size: int) -> tuple[int, int]:
    """(low bits, ratio): the share not kept, to the power 2^low, in 2^-16; symbols are 16..32 on average or low = 0."""
    shift = max(0, ((size - kept) // kept).bit_length() - 5)
    miss = math.log1p(-kept / size) if kept < size else -math.inf
    hit = round(-math.expm1(miss * (1 << shift)) * 65536)
    coarse = max(hit.bit_length() - SHARP, 0)
    return shift, 65536 - min(max(hit >> coarse << coarse, 1), 65536)


def _runs(gaps: np.ndarray, shift: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaps as symbols (int32) and their low bits; a gap of `longest` steps or more takes several symbols."""
    high, rest = gaps >> shift, gaps & ((1 << shift) - 1)
    extra = high // longest
    if not extra.any():
        return high.astype(np.int32), rest
    ends = np.cumsum(extra + 1) - 1
    symbols, low = np.full(int(ends[-1]) + 1, longest, np.int32), np.zeros(int(ends[-1]) + 1, rest.dtype)
    symbols[ends], low[ends] = high - extra * longest, rest
    return symbols, low


def choose(entries: np.ndarray, rows: int, width: int) -> tuple[Grid, float]:
    """The classes of rows and columns that need the fewest bits, and an estimate of these bits."""
    flat = Grid(np.zeros(rows, np.uint8), np.zeros(width, np.uint8))
    least = _cell_bits(np.array([len(entries)]), np.array([rows * width]))
    if len(entries) < 256:
        return flat, least
    row = entries.astype(np.uint32) // np.uint32(width)
    column = entries.astype(np.uint32) - row * np.uint32(width)
    down = _classes(np.bincount(row, minlength=rows), width, least)
    across = _classes(np.bincount(column, minlength=width), rows, least)
    best = flat
    for grid in (Grid(down, flat.columns), Grid(flat.rows, across), Grid(down, across)):
        if len(grid.sizes) > 1:
            kept = np.bincount(grid.cells(row, column), minlength=len(grid.sizes))
            cost = _cell_bits(kept, grid.sizes) + bits(grid.heights) + bits(grid.widths)
            if cost < 0.998 * least:
                best, least = grid, cost
    return best, least


def _classes(counts: np.ndarray, length: int, flat: float) -> np.ndarray:
    """Classes of lines (rows or columns) of `length` entries by their counts, as many as pay; uint8."""
    best, least = np.zeros(len(counts), np.uint8), flat
    octaves = np.log2(np.maximum(counts, 0.5)) + 1
    for step in STEPS:
        levels = (octaves * step).astype(np.intp)
        lines = np.bincount(levels)
        used = lines > 0
        if np.count_nonzero(used) > 1 << CLASS_BITS:
            break
        kept = np.bincount(levels, weights=counts)
        cost = _cell_bits(kept[used], lines[used] * length) + bits(lines)
        if cost < least:
            best, least = (np.cumsum(used) - 1)[levels].astype(np.uint8), cost
    return best


def _cell_bits(kept: np.ndarray, sizes: np.ndarray) -> float:
    """Bits for positions in cells of constant density, and for what describes the cells."""
    return log_sum(sizes) - log_sum(kept) - log_sum(sizes - kept) + 40.0 * len(kept)
