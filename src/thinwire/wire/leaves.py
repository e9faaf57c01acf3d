"""One leaf on the wire: its line in the directory, and its body of positions, then values."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

import torch

from thinwire.adapters import Key
from thinwire.payload import PER, All, Codes, Floats, Leaf, Listed, Positions, Seeded, groups
from thinwire.randomness import seeded_count
from thinwire.wire.cursor import Cursor, put_varint
from thinwire.wire.errors import WireError
from thinwire.wire.positions import LARGEST, get_positions, put_positions
from thinwire.wire.values import FLOAT_LAYOUTS, get_codes, get_floats, put_codes, put_floats

ALL, LISTED, SEEDED = range(3)
FLOATS = tuple(FLOAT_LAYOUTS)
CODES = len(FLOATS)
"""Number of the first kind of codes; the kinds follow the order of PER."""
VALUE_CODINGS = CODES + len(PER)
DIMENSIONS, NAME = 8, 1024
"""Most dimensions of a leaf, most bytes of a name."""
MASK = struct.Struct("<Qd")


@dataclass(frozen=True)
class Entry:
    """A leaf's line in the directory."""

    key: Key
    shape: tuple[int, ...]
    positions: int
    values: int
    kept: int
    length: int

    @property
    def where(self) -> str:
        return f"leaf {self.key[0]!r} ({self.key[1]})"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def decoded(self) -> int:
        """Bytes of values, scales, zero points and listed positions in memory."""
        place = 8 * self.kept * (self.positions == LISTED)
        if self.values < CODES:
            return place + self.kept * FLOATS[self.values].itemsize
        return place + self.kept + 8 * self.groups

    @property
    def per(self) -> str:
        """What shares a scale."""
        return PER[self.values - CODES]

    @property
    def groups(self) -> int:
        """Number of scales."""
        return groups(self.shape, self.per)


def put_entry(out: BinaryIO, key: Key, leaf: Leaf, length: int) -> None:
    """The directory's line: name, part, shape, kinds, number of values kept, length of the body."""
    for text in key:
        raw = text.encode()
        if len(raw) > NAME:
            raise WireError(f"leaf {text!r}: name of {len(raw)} bytes, at most {NAME} allowed")
        put_varint(out, len(raw))
        out.write(raw)
    if len(leaf.shape) > DIMENSIONS:
        raise WireError(f"leaf {key[0]!r} ({key[1]}): {len(leaf.shape)} dimensions, at most {DIMENSIONS} allowed")
    out.write(bytes([len(leaf.shape)]))
    for dimension in leaf.shape:
        put_varint(out, dimension)
    positions = {All: ALL, Listed: LISTED, Seeded: SEEDED}[type(leaf.positions)]
    match leaf.values:
        case Floats(tensor):
            values = FLOATS.index(tensor.dtype)
        case Codes(per=per):
            values = CODES + PER.index(per)
    out.write(bytes([positions << 4 | values]))
    put_varint(out, leaf.kept)
    put_varint(out, length)


def get_entry(cursor: Cursor, left: int) -> Entry:
    """Inverse of `put_entry`, the body being at most `left` bytes. Raises: WireError."""
    try:
        name, part = (bytes(cursor.take(cursor.varint(NAME, "length of a name"))).decode() for _ in range(2))
    except UnicodeDecodeError as error:
        raise cursor.fail("a name is not UTF-8") from error
    shape = tuple(cursor.varint(1 << 48, "dimension") for _ in range(cursor.byte(DIMENSIONS, "number of dimensions")))
    kinds = cursor.byte(SEEDED << 4 | 15, "kind of leaf")
    if kinds & 15 >= VALUE_CODINGS:
        raise cursor.fail(f"unknown kind of values {kinds & 15}")
    size = math.prod(shape)
    if size > 1 << 48:
        raise cursor.fail(f"shape {shape} has more than 2^48 values")
    if kinds >> 4 == LISTED and size > LARGEST:
        raise cursor.fail(f"shape {shape}: listed positions in a leaf of more than 2^32 values")
    kept = cursor.varint(size, "number of values")
    if kinds >> 4 == ALL and kept != size:
        raise cursor.fail(f"{kept} of {size} values in a dense leaf")
    return Entry((name, part), shape, kinds >> 4, kinds & 15, kept, cursor.varint(left, "length of a leaf"))


def put_leaf(out: BinaryIO, key: Key, leaf: Leaf) -> None:
    """The leaf's body. Raises: WireError for a leaf the format cannot carry."""
    _check(key, leaf)
    match leaf.positions:
        case Listed(indices):
            put_positions(out, indices.cpu().numpy())
        case Seeded(seed, density):
            out.write(MASK.pack(seed, density))
    if isinstance(leaf.values, Codes):
        put_codes(out, leaf.values)
    else:
        put_floats(out, leaf.values.tensor)


def get_leaf(cursor: Cursor, entry: Entry) -> Leaf:
    """Inverse of `put_leaf`. Raises: WireError."""
    cursor.part = "positions"
    positions: Positions = All()
    if entry.positions == LISTED:
        positions = Listed(torch.from_numpy(get_positions(cursor, entry.kept, entry.size)))
    elif entry.positions == SEEDED:
        positions = Seeded(*MASK.unpack(cursor.take(MASK.size)))
        if not 0 <= positions.density <= 1:
            raise cursor.fail(f"density {positions.density}")
        if seeded_count(positions.seed, entry.size, positions.density) != entry.kept:
            raise cursor.fail(f"its seed does not keep {entry.kept} values")
    if entry.values >= CODES:
        values: Codes | Floats = get_codes(cursor, entry.kept, entry.groups, entry.per)
    else:
        values = Floats(get_floats(cursor, entry.kept, FLOATS[entry.values]))
    cursor.end()
    return Leaf(entry.shape, positions, values)


def _check(key: Key, leaf: Leaf) -> None:
    """Raises: WireError for a leaf that its own fields contradict."""
    where = f"leaf {key[0]!r} ({key[1]})"
    match leaf.positions:
        case All():
            wrong = leaf.kept != leaf.size
        case Listed(indices):
            places = indices.cpu().numpy()
            low, high = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
            rising = bool((places[1:] > places[:-1]).all())
            wrong = len(places) != leaf.kept or low < 0 or high >= leaf.size or not rising
            if leaf.size > LARGEST:
                raise WireError(f"{where}: listed positions in a leaf of more than 2^32 values cannot travel")
        case Seeded(seed, density):
            wrong = not 0 <= seed < 1 << 64 or not 0 <= density <= 1
    if wrong:
        raise WireError(f"{where}: positions and values do not fit shape {leaf.shape}")
    match leaf.values:
        case Floats(tensor):
            if tensor.dtype not in FLOAT_LAYOUTS:
                raise WireError(f"{where}: values of {tensor.dtype} cannot travel")
        case Codes(codes, bits, scale, zero, per):
            number = groups(leaf.shape, per)
            if not 1 <= bits <= 8 or codes.dtype != torch.uint8 or scale.dtype != torch.float32:
                raise WireError(f"{where}: codes are uint8 of 1..8 bits with float32 scales")
            if len(scale) != number or (zero is not None and (len(zero) != number or zero.dtype != torch.int32)):
                raise WireError(f"{where}: {number} scales and int32 zero points belong to groups per {per}")
            if len(codes) and int(codes.max()) >> bits:
                raise WireError(f"{where}: a code beyond {bits} bits")
