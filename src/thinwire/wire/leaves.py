"""One leaf's body: positions, then values."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import torch

from thinwire.payload import All, Floats, Leaf, Listed, Positions, Seeded
from thinwire.wire.cursor import Cursor, put_varint
from thinwire.wire.errors import WireError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def encode_leaf(leaf: Leaf) -> bytes:
    """The leaf's body."""
    out = io.BytesIO()
    match leaf.positions:
        case All():
            out.write(b"\0")
        case Listed(indices):
            out.write(b"\1")
            put_varint(out, indices.numel())
            out.write(indices.numpy().astype("<i8").tobytes())
        case Seeded(seed, density):
            out.write(b"\2" + struct.pack("<Qd", seed, density))
            put_varint(out, leaf.kept)
    tensor = leaf.values.tensor
    out.write(bytes([DTYPES.index(tensor.dtype)]))
    out.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return out.getvalue()


def decode_leaf(shape: tuple[int, ...], body: memoryview, where: str) -> Leaf:
    """Inverse of `encode_leaf`. Raises: WireError."""
    cursor, size = Cursor(body, where), math.prod(shape)
    kind, kept, positions = cursor.byte(), size, All()  # type: tuple[int, int, Positions]
    if kind == 1:
        kept = cursor.varint(size, "number of positions")
        indices = np.frombuffer(cursor.take(8 * kept), "<i8").astype(np.int64)
        if kept and (indices[0] < 0 or indices[-1] >= size or (np.diff(indices) <= 0).any()):
            raise cursor.fail("positions out of range or order")
        positions = Listed(torch.from_numpy(indices))
    elif kind == 2:
        seed, density = struct.unpack("<Qd", cursor.take(16))
        if not 0 <= density <= 1:
            raise cursor.fail("density outside 0..1")
        kept = cursor.varint(size, "number of values")
        positions = Seeded(seed, density)
    elif kind:
        raise cursor.fail(f"unknown kind of positions {kind}")
    code = cursor.byte()
    if code >= len(DTYPES):
        raise cursor.fail(f"unknown kind of values {code}")
    dtype = DTYPES[code]
    values = torch.frombuffer(bytearray(cursor.take(kept * dtype.itemsize)), dtype=dtype) if kept else torch.empty(0, dtype=dtype)
    cursor.end()
    leaf = Leaf(shape, positions, Floats(values))
    if kind == 2 and leaf.indices().numel() != kept:  # type: ignore[union-attr]
        raise WireError(f"{where}: seeded mask does not keep {kept} values")
    return leaf
