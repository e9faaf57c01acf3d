"""Payloads as bytes: `pack`, `unpack`, and leaf by leaf through `open_payload`; docs/wire.md has the format."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

from thinwire.adapters import Key
from thinwire.payload import PAYLOAD_KINDS, Leaf, Payload
from thinwire.wire.cursor import Cursor, put_plain, put_varint
from thinwire.wire.errors import Expect, WireError
from thinwire.wire.leaves import CODES, Entry, get_entry, get_leaf, put_entry, put_leaf

__all__ = ["FORMAT", "Expect", "Reader", "WireError", "open_payload", "pack", "readable", "unpack"]

MAGIC, FORMAT = b"thw", 2
START = len(MAGIC) + 1 + 8
"""Magic, format version, run."""
TRAILER = 8
LEAVES, DIRECTORY = 1 << 16, 1 << 24
"""Most leaves of a payload, most bytes of its directory."""


def pack(payload: Payload) -> bytes:
    """The payload's bytes. Raises: WireError for what the format cannot carry."""
    if payload.kind not in PAYLOAD_KINDS:
        raise WireError(f"kind {payload.kind!r}: allowed are {', '.join(PAYLOAD_KINDS)}")
    out, directory = io.BytesIO(), io.BytesIO()
    if not 0 <= payload.run < 1 << 64:
        raise WireError(f"run {payload.run}: allowed are 64 bits")
    out.write(MAGIC + bytes([FORMAT]) + payload.run.to_bytes(8, "little"))
    directory.write(bytes([PAYLOAD_KINDS.index(payload.kind)]))
    put_varint(directory, payload.version, len(payload.leaves))
    for key, leaf in payload.leaves.items():
        start = out.tell()
        put_leaf(out, key, leaf)
        put_entry(directory, key, leaf, out.tell() - start)
    start = out.tell()
    put_varint(out, directory.tell())
    put_plain(out, directory.getvalue())
    out.write((out.tell() - start).to_bytes(4, "little"))
    out.write(zlib.crc32(out.getbuffer()).to_bytes(4, "little"))
    return out.getvalue()


class Reader:
    """A payload whose header is checked and whose leaves are decoded when asked for."""

    def __init__(self, kind: str, version: int, run: int, entries: Sequence[tuple[Entry, memoryview]]) -> None:
        self.kind, self.version, self.run = kind, version, run
        self._entries = {entry.key: (entry, body) for entry, body in entries}

    @property
    def keys(self) -> Sequence[Key]:
        """Keys of the leaves, in the order sent."""
        return tuple(self._entries)

    def entry(self, key: Key) -> Entry:
        """What the directory says of a leaf: shape, kinds, values kept, bytes. Raises: KeyError for a leaf not sent."""
        return self._entries[key][0]

    def shape(self, key: Key) -> tuple[int, ...]:
        """A leaf's shape, not decoded."""
        return self.entry(key).shape

    def leaf(self, key: Key) -> Leaf:
        """Decode one leaf. Raises: KeyError for a leaf that was not sent, WireError for bad bytes."""
        entry, body = self._entries[key]
        return get_leaf(Cursor(body, entry.where), entry)

    def bytes_by_part(self, key: Key) -> dict[str, int]:
        """Bytes of a leaf's body by what they hold: positions, scales, exponents, signs, mantissas, codes."""
        entry, body = self._entries[key]
        cursor = Cursor(body, entry.where)
        get_leaf(cursor, entry)
        spent = dict(cursor.spent)
        if entry.values >= CODES:
            places, codes = spent.get("positions", 0), spent.get("codes", 0)
            spent = {"positions": places, "scales": entry.length - places - codes, "codes": codes}
        return {part: count for part, count in spent.items() if count}

    def payload(self) -> Payload:
        """Decode all leaves. Raises: WireError."""
        return Payload(self.kind, self.version, self.run, {key: self.leaf(key) for key in self.keys})


def open_payload(blob: bytes, expect: Expect | None = None) -> Reader:
    """Check length, checksum and directory, once; nothing is decoded. Raises: WireError."""
    expect = expect or Expect()
    if len(blob) > expect.limit:
        raise WireError(f"payload of {len(blob)} bytes, at most {expect.limit} allowed")
    view = memoryview(blob)
    if view[: len(MAGIC)] == MAGIC and len(blob) > len(MAGIC) and not readable(blob):
        raise WireError(f"format version {view[len(MAGIC)]}: this release reads {FORMAT}")
    if len(blob) < START + TRAILER or not readable(blob):
        raise WireError(f"{len(blob)} bytes that are not a thinwire payload")
    if zlib.crc32(view[:-4]) != int.from_bytes(view[-4:], "little"):
        raise WireError("checksum does not match: truncated or altered on the way")
    length = int.from_bytes(view[-TRAILER:-4], "little")
    start = len(blob) - TRAILER - length
    if start < START:
        raise WireError(f"directory of {length} bytes in a payload of {len(blob)}")
    run = int.from_bytes(view[START - 8 : START], "little")
    expect.check("run", run)
    return _directory(run, view[START:start], view[start:-TRAILER], expect)


def readable(blob: bytes, run: int | None = None) -> bool:
    """Whether packed bytes are of the format that this release reads, and of this run; None: of any.

    A run resumed after an update may hold others.
    """
    start = MAGIC + bytes([FORMAT]) + (b"" if run is None else run.to_bytes(8, "little"))
    return blob[: len(start)] == start


def unpack(blob: bytes, expect: Expect | None = None) -> Payload:
    """The payload in the bytes. Raises: WireError for anything but a sound payload within `expect`."""
    return open_payload(blob, expect).payload()


def _directory(run: int, bodies: memoryview, packed: memoryview, expect: Expect) -> Reader:
    """The reader of a payload's leaves, each checked against what is expected."""
    outer = Cursor(packed, "directory")
    raw = outer.plain(outer.varint(min(DIRECTORY, expect.limit), "length of the directory"), "directory")
    outer.end()
    cursor = Cursor(memoryview(raw), "directory")
    kind = PAYLOAD_KINDS[cursor.byte(len(PAYLOAD_KINDS) - 1, "kind")]
    version = cursor.varint(2**64 - 1, "version")
    expect.check("kind", kind)
    expect.check("version", version)
    entries: dict[Key, tuple[Entry, memoryview]] = {}
    at, decoded, values = 0, 0, 0
    for _ in range(cursor.varint(LEAVES, "number of leaves")):
        entry = get_entry(cursor, len(bodies) - at)
        if entry.key in entries:
            raise cursor.fail(f"{entry.where} comes twice")
        expect.check_leaf(entry)
        values += entry.size if expect.is_open(entry.key) else 0
        if values > expect.limit:
            raise WireError(f"{entry.where}: leaves of {values} values, at most {expect.limit} allowed")
        decoded += entry.decoded
        if decoded > expect.limit:
            raise WireError(f"{entry.where}: decoded leaves take {decoded} bytes, at most {expect.limit} allowed")
        entries[entry.key] = entry, bodies[at : at + entry.length]
        at += entry.length
    cursor.end()
    if at != len(bodies):
        raise WireError(f"directory: {len(bodies) - at} bytes belong to no leaf")
    return Reader(kind, version, run, list(entries.values()))
