"""A second reader of the format, written from docs/wire.md: integers and lists only, one symbol at a time, slow.

It shares no code with thinwire.wire and uses neither NumPy nor `constriction`; only zstd frames are left to zstandard.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import zstandard

CHUNK = 1 << 18
FLOATS = {0: (32, 8, 23), 1: (16, 8, 7), 2: (16, 5, 10)}


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def plain(self, size: int) -> bytes:
        if self.byte() == 0:
            return self.take(size)
        data = zstandard.ZstdDecompressor().decompress(self.take(self.varint()))
        assert len(data) == size
        return data


class Ans:
    """Words are a stack; the state has 64 bits and is refilled below 2^32."""

    def __init__(self, source: Bytes) -> None:
        count = source.varint()
        self.words = list(struct.unpack(f"<{count}I", source.take(4 * count)))
        self.state = 0
        for _ in range(2):
            if self.words:
                self.state = self.state << 32 | self.words.pop()

    def symbol(self, weights: list[int]) -> int:
        quantile, start = self.state & 0xFFFFFF, 0
        for symbol, weight in enumerate(weights):
            if quantile < start + weight:
                self.state = (self.state >> 24) * weight + quantile - start
                if self.state < 1 << 32 and self.words:
                    self.state = self.state << 32 | self.words.pop()
                return symbol
            start += weight
        raise AssertionError("weights do not add up to 2^24")


def planes(data: bytes, count: int, width: int) -> list[int]:
    size = (count + 7) // 8
    return [
        sum((data[plane * size + at // 8] >> (7 - at % 8) & 1) << plane for plane in range(width))
        for at in range(count)
    ]


def symbols(source: Bytes, count: int, width: int) -> list[int]:
    method = source.byte()
    if method == 0:
        return [source.varint()] * count
    if method == 1:
        size = 1 if width <= 8 else 2
        data = source.plain(count * size)
        return [int.from_bytes(data[at * size : at * size + size], "little") for at in range(count)]
    if method == 2:
        return planes(source.take(width * ((count + 7) // 8)), count, width)
    used: list[int] = []
    end = 0
    while length := source.varint():
        end += source.varint()
        used += range(end, end + length)
        end += length
    frequencies = [source.varint() for _ in used[1:]]
    frequencies.append(65536 - sum(frequencies))
    coder = Ans(source)
    return [used[coder.symbol([256 * frequency for frequency in frequencies])] for _ in range(count)]


def geometric(ratio: int) -> list[int]:
    tails = [1 << 40]
    while len(tails) < 256 and (len(tails) < 2 or tails[-1] >= 1 << 16):
        tails.append(tails[-1] * ratio >> 16)
    free = (1 << 24) - len(tails)
    ends = [(tail >> 16) * free >> 24 for tail in tails] + [0]
    return [ends[at] - ends[at + 1] + 1 for at in range(len(tails))]


def listed(source: Bytes, kept: int) -> list[int]:
    found: list[int] = []
    while len(found) < kept:
        for gap in gaps(source, min(CHUNK, kept - len(found))):
            found.append((found[-1] if found else -1) + gap + 1)
    return found


def gaps(source: Bytes, count: int) -> list[int]:
    if source.byte() == 1:
        gap_planes = [source.plain(count) for _ in range(4)]
        return [sum(gap_planes[byte][at] << 8 * byte for byte in range(4)) for at in range(count)]
    low, ratio = source.byte(), int.from_bytes(source.take(2), "little")
    weights, number = geometric(ratio), source.varint()
    coder = Ans(source)
    high = [coder.symbol(weights) for _ in range(number)]
    rest = planes(source.take(low * ((number + 7) // 8)), number, low) if low else [0] * number
    found, gap = [], 0
    for symbol, bits in zip(high, rest, strict=True):
        gap += (symbol << low) + bits
        if symbol < len(weights) - 1:
            found.append(gap)
            gap = 0
    assert len(found) == count
    return found


def floats(source: Bytes, count: int, kind: int) -> list[int]:
    """Bit patterns as integers."""
    width, exponent, mantissa = FLOATS[kind]
    out: list[int] = []
    while len(out) < count:
        number = min(CHUNK, count - len(out))
        method = source.byte()
        if method == 0:
            data = source.plain(number * width // 8)
            out += [sum(data[byte * number + at] << 8 * byte for byte in range(width // 8)) for at in range(number)]
            continue
        extra, apart = method >> 1 & 7, method >> 4
        low = mantissa - extra
        high = symbols(source, number, exponent + extra)
        sign = symbols(source, number, 1) if apart else None
        raw = low if apart else low + 1
        rest = [0] * number
        for byte in range(raw // 8):
            data = source.plain(number)
            rest = [value | data[at] << 8 * byte for at, value in enumerate(rest)]
        if raw % 8:
            top = planes(source.plain(raw % 8 * ((number + 7) // 8)), number, raw % 8)
            rest = [value | top[at] << raw // 8 * 8 for at, value in enumerate(rest)]
        if sign is None:
            sign = [value >> low for value in rest]
            rest = [value & (1 << low) - 1 for value in rest]
        out += [s << (width - 1) | h << low | r for s, h, r in zip(sign, high, rest, strict=True)]
    return out


def read(blob: bytes) -> dict[str, Any]:
    """kind, version, run, and leaves of name, part, shape, positions and values, as in the expected content's JSON."""
    assert blob[:4] == b"thw\2"
    assert zlib.crc32(blob[:-4]) == int.from_bytes(blob[-4:], "little")
    start = len(blob) - 8 - int.from_bytes(blob[-8:-4], "little")
    outer = Bytes(blob[start:-8])
    line = Bytes(outer.plain(outer.varint()))
    kind, run, version = line.byte(), int.from_bytes(blob[4:12], "little"), line.varint()
    leaves, at = [], 12
    for _ in range(line.varint()):
        name, part = (line.take(line.varint()).decode() for _ in range(2))
        shape = [line.varint() for _ in range(line.byte())]
        kinds, kept, length = line.byte(), line.varint(), line.varint()
        body = Bytes(blob[at : at + length])
        at += length
        leaf: dict[str, Any] = {"name": name, "part": part, "shape": shape}
        match kinds >> 4:
            case 0:
                leaf["positions"] = "all"
            case 1:
                leaf["positions"] = listed(body, kept)
            case 2:
                seed, density = struct.unpack("<Qd", body.take(16))
                leaf["positions"] = {"seed": seed, "density": density}
        if kinds & 15 < 3:
            leaf["values"] = {
                "dtype": ["float32", "bfloat16", "float16"][kinds & 15],
                "bits": floats(body, kept, kinds & 15),
            }
        else:
            leaf["values"] = quantised(body, kept, shape, kinds & 15)
        assert body.at == length
        leaves.append(leaf)
    assert at == start
    return {"kind": ["state", "change"][kind], "version": version, "run": run, "leaves": leaves}


def quantised(body: Bytes, kept: int, shape: list[int], kind: int) -> dict[str, Any]:
    size = 1
    for length in shape:
        size *= length
    per = ["tensor", "row", "channel"][kind - 3]
    groups = {"tensor": 1, "row": size // (shape[-1] if shape else 1), "channel": shape[0] if shape else 1}[per]
    head = body.byte()
    scale, zero = floats(body, groups, 0), None
    if head & 16:
        data = body.plain(4 * groups)
        words = [sum(data[byte * groups + at] << 8 * byte for byte in range(4)) for at in range(groups)]
        zero = [word - (1 << 32) if word >> 31 else word for word in words]
    codes: list[int] = []
    while len(codes) < kept:
        codes += symbols(body, min(CHUNK, kept - len(codes)), head & 15)
    return {"per": per, "width": head & 15, "scale_bits": scale, "zero": zero, "codes": codes}


def philox(key: int, counter: int) -> list[int]:
    """Four 64-bit outputs of Philox4x64-10 under a key below 2^64, at a 64-bit counter."""
    mask = (1 << 64) - 1
    x, k = [counter, 0, 0, 0], [key, 0]
    for number in range(10):
        if number:
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        one, two = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [two >> 64 ^ x[1] ^ k[0], two & mask, one >> 64 ^ x[3] ^ k[1], one & mask]
    return x


def words(key: int, count: int) -> list[int]:
    """32-bit words: counters from 1, each output's low half first."""
    out: list[int] = []
    counter = 1
    while len(out) < count:
        for value in philox(key, counter):
            out += [value & 0xFFFFFFFF, value >> 32]
        counter += 1
    return out[:count]
