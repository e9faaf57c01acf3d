"""Reading and writing of the wire's integers and sections; every read is checked against what is left."""

from __future__ import annotations

from typing import BinaryIO

from thinwire.wire.errors import WireError


def put_varint(out: BinaryIO, value: int) -> None:
    """LEB128: 7 bits a byte, low bits first, the top bit set on all but the last."""
    if not 0 <= value < 1 << 64:
        raise WireError(f"{value} does not fit the wire's 64-bit integers")
    while value >= 128:
        out.write(bytes([value & 127 | 128]))
        value >>= 7
    out.write(bytes([value]))


def put_bytes(out: BinaryIO, data: bytes) -> None:
    """A length and that many bytes."""
    put_varint(out, len(data))
    out.write(data)


class Cursor:
    """A place in a buffer. `where` names the buffer in errors. Raises: WireError when a read passes its end."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def fail(self, what: str) -> WireError:
        return WireError(f"{self.where}, byte {self.at}: {what}")

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, not copied."""
        if count > self.left:
            raise self.fail(f"{count} bytes announced, {self.left} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, most: int, what: str) -> int:
        """An integer in 0..most, in its shortest form."""
        value = 0
        for shift in range(0, 64, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and byte == 0:
                    raise self.fail(f"{what}: integer not in its shortest form")
                if value > most:
                    raise self.fail(f"{what} is {value}, at most {most} allowed")
                return value
        raise self.fail(f"{what}: integer of more than 9 bytes")

    def section(self, what: str) -> memoryview:
        """What `put_bytes` wrote."""
        return self.take(self.varint(self.left, f"length of {what}"))

    def end(self) -> None:
        """Raises: WireError unless everything was read."""
        if self.left:
            raise self.fail(f"{self.left} bytes too many")
