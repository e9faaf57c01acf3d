"""Payloads as bytes: `pack`, `unpack`, and leaf by leaf through `open_payload`. The format is written in docs/wire.md."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence

from thinwire.adapters import Key
from thinwire.payload import KINDS, Leaf, Payload
from thinwire.wire.cursor import Cursor, put_bytes, put_varint
from thinwire.wire.errors import Expect, WireError
from thinwire.wire.leaves import decode_leaf, encode_leaf

__all__ = ["Expect", "Reader", "WireError", "open_payload", "pack", "unpack"]

MAGIC, FORMAT = b"thw", 1
HEADER = struct.Struct("<3sBB3xQQQI")
CHECKSUM = struct.Struct("<I")


def pack(payload: Payload) -> bytes:
    """The payload's bytes. Raises: WireError for what the format cannot carry."""
    if payload.kind not in KINDS:
        raise WireError(f"kind {payload.kind!r}: allowed are {', '.join(KINDS)}")
    out, directory = io.BytesIO(), io.BytesIO()
    out.write(bytes(HEADER.size))
    for (name, part), leaf in payload.leaves.items():
        body = encode_leaf(leaf)
        out.write(body)
        put_bytes(directory, name.encode())
        put_bytes(directory, part.encode())
        put_varint(directory, len(leaf.shape))
        for length in leaf.shape:
            put_varint(directory, length)
        put_varint(directory, len(body))
    start = out.tell()
    out.write(directory.getvalue())
    out.seek(0)
    kind = KINDS.index(payload.kind)
    out.write(HEADER.pack(MAGIC, FORMAT, kind, payload.version, payload.run, start, len(payload.leaves)))
    checksum = zlib.crc32(out.getbuffer())
    out.seek(0, io.SEEK_END)
    out.write(CHECKSUM.pack(checksum))
    return out.getvalue()


class Reader:
    """A payload whose header is checked and whose leaves are decoded when asked for."""

    def __init__(self, kind: str, version: int, run: int, bodies: dict[Key, tuple[tuple[int, ...], memoryview]]) -> None:
        self.kind, self.version, self.run, self._bodies = kind, version, run, bodies

    @property
    def keys(self) -> Sequence[Key]:
        """Keys of the leaves, in the order sent."""
        return tuple(self._bodies)

    def shape(self, key: Key) -> tuple[int, ...]:
        """A leaf's shape, not decoded."""
        return self._bodies[key][0]

    def leaf(self, key: Key) -> Leaf:
        """Decode one leaf. Raises: KeyError for a leaf that was not sent, WireError for bad bytes."""
        shape, body = self._bodies[key]
        return decode_leaf(shape, body, f"leaf {key[0]!r} ({key[1]})")

    def payload(self) -> Payload:
        """Decode all leaves."""
        return Payload(self.kind, self.version, self.run, {key: self.leaf(key) for key in self.keys})


def open_payload(blob: bytes, expect: Expect | None = None) -> Reader:
    """Check length, checksum, header and directory, once. Raises: WireError."""
    expect = expect or Expect()
    if len(blob) > expect.limit:
        raise WireError(f"payload of {len(blob)} bytes, at most {expect.limit} allowed")
    if len(blob) < HEADER.size + CHECKSUM.size:
        raise WireError(f"payload of {len(blob)} bytes is shorter than a header")
    view = memoryview(blob)
    magic, version_of_format, kind, version, run, start, count = HEADER.unpack(view[: HEADER.size])
    if magic != MAGIC:
        raise WireError("header: not a thinwire payload")
    if version_of_format != FORMAT:
        raise WireError(f"header: format version {version_of_format}, this reads {FORMAT}")
    if zlib.crc32(view[: -CHECKSUM.size]) != CHECKSUM.unpack(view[-CHECKSUM.size :])[0]:
        raise WireError("checksum does not match")
    if kind >= len(KINDS):
        raise WireError(f"header: unknown kind {kind}")
    for field, found in (("kind", KINDS[kind]), ("version", version), ("run", run)):
        expect.check(field, found)
    if not HEADER.size <= start <= len(blob) - CHECKSUM.size:
        raise WireError(f"header: directory at byte {start} of {len(blob)}")
    cursor, at = Cursor(view[start : -CHECKSUM.size], "directory"), HEADER.size
    bodies: dict[Key, tuple[tuple[int, ...], memoryview]] = {}
    for _ in range(count):
        key, shape, length = _entry(cursor, start - at)
        if key in bodies:
            raise cursor.fail(f"leaf {key[0]!r} ({key[1]}) twice")
        expect.check_leaf(key, shape)
        bodies[key] = shape, view[at : at + length]
        at += length
    cursor.end()
    if at != start:
        raise WireError(f"directory: leaves end at byte {at}, not {start}")
    return Reader(KINDS[kind], version, run, bodies)


def unpack(blob: bytes, expect: Expect | None = None) -> Payload:
    """The payload in the bytes. Raises: WireError for anything but a sound payload within `expect`."""
    return open_payload(blob, expect).payload()


def _entry(cursor: Cursor, left: int) -> tuple[Key, tuple[int, ...], int]:
    """One leaf of the directory: key, shape, length of its body."""
    try:
        name, part = (bytes(cursor.section(what)).decode() for what in ("name", "part"))
    except UnicodeDecodeError as error:
        raise cursor.fail("name is no UTF-8") from error
    shape = tuple(cursor.varint(1 << 48, "dimension") for _ in range(cursor.varint(8, "number of dimensions")))
    if math.prod(shape) >= 1 << 62:
        raise cursor.fail(f"shape {shape} is too large")
    return (name, part), shape, cursor.varint(left, "length of a leaf")
