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
FEWEST = 256
"""Positions of a chunk from which on classes are tried."""
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

    def entries(self, cell: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Sorted flat entries (row * columns + column) from their cells and places in the line; inverse of `line`."""
        down, across = np.divmod(np.arange(len(self.sizes)), len(self.widths))
        place = place - self.bases[cell]
        row = place // self.widths[across][cell]
        column = place - row * self.widths[across][cell]
        row += (np.cumsum(self.heights) - self.heights)[down][cell]
        column += (np.cumsum(self.widths) - self.widths)[across][cell]
        return np.sort(self.row_order[row] * len(self.columns) + self.column_order[column])


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
    line = entries
    if len(grid.sizes) > 1:
        row = entries.astype(np.uint32) // np.uint32(width)
        line = grid.line(row, (entries - row * np.int64(width)).astype(np.uint32))
    _put_line(out, line, grid)


def _put_line(out: BinaryIO, line: np.ndarray, grid: Grid) -> None:
    """For each cell the number of its symbols and its model; the symbols' stream; low bits by cell."""
    starts = np.searchsorted(line, grid.bases)
    counts = np.diff(starts)
    cells = np.flatnonzero(counts)
    gaps = np.diff(line, prepend=-1) - 1
    gaps[starts[cells]] = line[starts[cells]] - grid.bases[cells]
    counts, sizes = counts[cells], grid.sizes[cells]
    chosen = [_parameters(count, size) for count, size in zip(counts.tolist(), sizes.tolist(), strict=True)]
    models = [geometric(ratio) for _, ratio in chosen]
    shift = _spread(np.array([shift for shift, _ in chosen]), counts)
    longest = _spread(np.array([size - 1 for _, size in models]), counts)
    symbols, low, counts = _runs(gaps >> shift, gaps & ((1 << shift) - 1), longest, counts)
    ends = np.cumsum(counts).tolist()
    slices = [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]
    mine = dict(zip(cells.tolist(), zip(counts.tolist(), chosen, strict=True), strict=True))
    for cell in range(len(grid.sizes)):
        count, (bits_low, ratio) = mine.get(cell, (0, (0, 0)))
        put_varint(out, count)
        if count:
            out.write(bytes([bits_low]) + ratio.to_bytes(2, "little"))
    put_stream(out, [(symbols[part], model) for part, (model, _) in zip(slices, models, strict=True)])
    for part, (bits_low, _) in zip(slices, chosen, strict=True):
        out.write(pack_bits(low[part], bits_low))


def _get_chunk(cursor: Cursor, count: int, rows: int, width: int) -> np.ndarray:
    """Inverse of `_put_chunk`; sorted int64 entries."""
    if cursor.byte(GAPS, "coding of positions") == GAPS:
        return _get_gaps(cursor, count, rows * width)
    grid = Grid(get_symbols(cursor, rows, CLASS_BITS), get_symbols(cursor, width, CLASS_BITS))
    cell, place = _get_line(cursor, count, grid)
    if len(place) != count:
        raise cursor.fail(f"{len(place)} positions, {count} announced")
    return place if len(grid.sizes) == 1 else grid.entries(cell, place)


def _get_line(cursor: Cursor, count: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `_put_line`: cells and places in the line of at most twice `count` entries, and some a cell."""
    cells, shifts, models, counts = [], [], [], []
    allowed = 2 * count + 2 * len(grid.sizes)
    for cell, size in enumerate(grid.sizes.tolist()):
        if symbols := cursor.varint(min(size, allowed), "gaps of a cell"):
            cells.append(cell)
            counts.append(symbols)
            shifts.append(cursor.byte(31, "low bits of gaps"))
            models.append(geometric(int.from_bytes(cursor.take(2), "little")))
            allowed -= symbols
    if not cells:
        raise cursor.fail("no cell holds a position")
    stream = Stream(cursor)
    symbol = np.concatenate([stream.take(model, symbols) for (model, _), symbols in zip(models, counts, strict=True)])
    stream.end()
    step = symbol.astype(np.int64) << _spread(np.array(shifts), counts)
    end = 0
    for symbols, shift in zip(counts, shifts, strict=True):
        end += symbols
        if shift:
            step[end - symbols : end] |= unpack_bits(cursor.take(packed_size(symbols, shift)), symbols, shift)
    kept = symbol != _spread(np.array([size - 1 for _, size in models]), counts)
    step += kept
    place = np.cumsum(step)
    lasts = place[np.cumsum(counts) - 1]
    starts = np.concatenate([[0], lasts[:-1]])
    if (lasts - starts > grid.sizes[cells]).any():
        raise cursor.fail("a position lies outside its cell")
    place += _spread(grid.bases[cells] - starts - 1, counts)
    cell_of = _spread(np.array(cells), counts)
    if kept.all():
        return cell_of, place
    return cell_of[kept] if len(cells) > 1 else cell_of, place[kept]


def _spread(values: np.ndarray, counts: list[int] | np.ndarray) -> np.ndarray:
    """Each value repeated; one value alone stays one."""
    return values if len(values) == 1 else np.repeat(values, counts)


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


def _runs(
    high: np.ndarray, low: np.ndarray, longest: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols (int32), their low bits and their number a cell; a gap of `longest` steps or more takes several."""
    if not (high >= longest).any():
        return high.astype(np.int32), low, counts
    extra = high // longest
    ends = np.cumsum(extra + 1) - 1
    symbols = np.repeat(np.broadcast_to(longest, high.shape), extra + 1)
    rest = np.zeros(len(symbols), low.dtype)
    symbols[ends], rest[ends] = high - extra * longest, low
    return symbols.astype(np.int32), rest, np.add.reduceat(extra + 1, np.cumsum(counts) - counts)


def choose(entries: np.ndarray, rows: int, width: int) -> tuple[Grid, float]:
    """The classes of rows and columns that need the fewest bits, and an estimate of these bits."""
    flat = Grid(np.zeros(rows, np.uint8), np.zeros(width, np.uint8))
    least = _cell_bits(np.array([len(entries)]), np.array([rows * width]))
    if len(entries) < max(FEWEST, (rows + width) // 64):
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
