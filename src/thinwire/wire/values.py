"""Values on the wire: floats with their high bits coded and their low bits raw, and codes with their scales."""

from __future__ import annotations

import io
import math
from itertools import accumulate
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from thinwire.payload import Codes
from thinwire.wire.cursor import Cursor, put_plain
from thinwire.wire.entropy import (
    SAMPLE,
    get_symbols,
    n_log_n,
    pack_bits,
    packed_size,
    pieces,
    put_symbols,
    share_bits,
    table_bits,
    uint,
    unpack_bits,
    zstd_bits,
)

FLOAT_LAYOUTS = {torch.float32: (8, 23), torch.bfloat16: (8, 7), torch.float16: (5, 10)}
"""Bits of exponent and mantissa; a dtype's place in this table is its number on the wire."""

WHOLE, SPLIT = 0, 1
AFFINE = 16
MOST = 4
"""Most mantissa bits coded together with the exponent."""


def put_floats(out: BinaryIO, tensor: Tensor) -> None:
    """A flat float tensor, lossless to the bit; its dtype and length are known to the reader."""
    exponent, mantissa = FLOAT_LAYOUTS[tensor.dtype]
    words = tensor.detach().cpu().contiguous().view(_integers(tensor.dtype)).numpy()
    words = words.view(f"<u{tensor.dtype.itemsize}")
    for piece in pieces(len(words)):
        _put_piece(out, words[piece], exponent, mantissa)


def get_floats(cursor: Cursor, count: int, dtype: torch.dtype) -> Tensor:
    """Inverse of `put_floats`; (count,). Raises: WireError."""
    exponent, mantissa = FLOAT_LAYOUTS[dtype]
    words = np.empty(count, f"<u{dtype.itemsize}")
    for piece in pieces(count):
        words[piece] = _get_piece(cursor, piece.stop - piece.start, exponent, mantissa)
    return torch.from_numpy(words.view(f"<i{dtype.itemsize}")).view(dtype)


def put_codes(out: BinaryIO, values: Codes) -> None:
    """Bits and whether there are zero points; scales; zero points; codes."""
    out.write(bytes([values.bits | AFFINE * (values.zero is not None)]))
    put_floats(out, values.scale)
    if values.zero is not None:
        put_plain(out, _planes(values.zero.numpy().astype("<i4").view("<u4"), 4))
    codes = values.codes.contiguous().numpy()
    for piece in pieces(len(codes)):
        put_symbols(out, codes[piece], values.bits, sample=2 * SAMPLE)


def get_codes(cursor: Cursor, count: int, number: int, per: str) -> Codes:
    """Inverse of `put_codes`, with `number` scales. Raises: WireError, also for scales that are not finite."""
    head = cursor.byte(AFFINE | 8, "bits of codes")
    width, affine = head & ~AFFINE, head >= AFFINE
    if not 1 <= width <= 8:
        raise cursor.fail(f"codes of {width} bits")
    scale, zero = get_floats(cursor, number, torch.float32), None
    if not bool((scale >= 0).all()):
        raise cursor.fail("a scale is negative or no number")
    reach = torch.full((number,), float(1 << width - 1), dtype=torch.float64)
    if affine:
        planes = np.frombuffer(cursor.plain(4 * number, "zero points"), np.uint8).reshape(4, number)
        zero = torch.from_numpy(_joined(planes).astype(np.uint32).view(np.int32))
        reach += zero.double().abs()
    if bool((scale.double() * reach > torch.finfo(torch.float32).max).any()):
        raise cursor.fail("scale and zero point reach beyond float32")
    codes = np.empty(count, np.uint8)
    cursor.part = "codes"
    for piece in pieces(count):
        codes[piece] = get_symbols(cursor, piece.stop - piece.start, width)
    return Codes(torch.from_numpy(codes), width, scale, zero, per)


def _put_piece(out: BinaryIO, words: np.ndarray, exponent: int, mantissa: int) -> None:
    """All bytes plain; or exponents (and some top mantissa bits) coded, the rest raw, skewed signs apart."""
    high = (words >> (mantissa - MOST) & ((1 << exponent + MOST) - 1)).astype(uint(exponent + MOST))
    extra, counts, cost = _coded_bits(high, mantissa)
    sign = words >> (exponent + mantissa)
    apart = share_bits(int(np.count_nonzero(sign)), len(words)) + 100 < 0.99 * len(words)
    whole = io.BytesIO()
    if zstd_bits(words) < 0.98 * (cost + len(words)):
        put_plain(whole, _planes(words, words.itemsize))
    split = io.BytesIO()
    if not whole.tell() or whole.tell() * 8 > 0.98 * (cost + len(words)):
        low = mantissa - extra
        split.write(bytes([SPLIT | extra << 1 | int(apart) << 4]))
        coded = (high >> (MOST - extra)).astype(uint(exponent + extra), copy=False)
        put_symbols(split, coded, exponent + extra, counts)
        if apart:
            put_symbols(split, sign.astype(np.uint8), 1)
        rest = words & words.dtype.type((1 << low) - 1)
        _put_low(split, rest if apart else rest | sign << words.dtype.type(low), low + (not apart))
    if whole.tell() and (not split.tell() or whole.tell() < split.tell()):
        out.write(bytes([WHOLE]))
        out.write(whole.getvalue())
    else:
        out.write(split.getvalue())


def _get_piece(cursor: Cursor, count: int, exponent: int, mantissa: int) -> np.ndarray:
    """Inverse of `_put_piece`; unsigned words of the dtype's width."""
    size = (1 + exponent + mantissa) // 8
    kind = np.dtype(f"<u{size}")
    cursor.part = "exponents"
    method = cursor.byte(31, "coding of floats")
    extra, apart = method >> 1 & 7, method >> 4 == 1
    if not method & 1:
        if method:
            raise cursor.fail(f"unknown coding of floats {method}")
        cursor.part = "whole floats"
        return _joined(np.frombuffer(cursor.plain(count * size, "floats"), np.uint8).reshape(size, count)).astype(kind)
    if extra > MOST:
        raise cursor.fail(f"{extra} mantissa bits coded, at most {MOST} allowed")
    low = mantissa - extra
    words = get_symbols(cursor, count, exponent + extra).astype(kind) << kind.type(low)
    if apart:
        cursor.part = "signs"
        words |= get_symbols(cursor, count, 1).astype(kind) << kind.type(exponent + mantissa)
        cursor.part = "mantissas"
        return words | _get_low(cursor, count, low).astype(kind, copy=False)
    cursor.part = "signs and mantissas"
    rest = _get_low(cursor, count, low + 1).astype(kind, copy=False)
    words |= rest & kind.type((1 << low) - 1)
    words |= rest >> kind.type(low) << kind.type(exponent + mantissa)
    return words


def _coded_bits(high: np.ndarray, mantissa: int) -> tuple[int, np.ndarray, float]:
    """How many mantissa bits to code with the exponent, the counts of what is coded then, and the bits of all.

    high: exponents and MOST mantissa bits.
    """
    first, last = int(high.min()) >> MOST, int(high.max()) >> MOST
    levels = [np.bincount(high - high.dtype.type(first << MOST), minlength=last - first + 1 << MOST)]
    for _ in range(MOST):
        levels.append(levels[-1][::2] + levels[-1][1::2])
    every, starts = np.concatenate(levels), [0, *accumulate(map(len, levels[:-1]))]
    count = len(high)
    sums = np.add.reduceat(n_log_n(every), starts).tolist()
    used = np.add.reduceat(every > 0, starts, dtype=int).tolist()
    costs = [
        count * (math.log2(count) + mantissa - MOST + skipped) - sums[skipped] + table_bits(used[skipped])
        for skipped in range(MOST + 1)
    ]
    skipped = min(range(MOST + 1), key=costs.__getitem__)
    if costs[MOST] < 1.002 * costs[skipped]:
        skipped = MOST
    extra = MOST - skipped
    return extra, np.concatenate([np.zeros(first << extra, int), levels[skipped]]), costs[skipped]


def _put_low(out: BinaryIO, rest: np.ndarray, width: int) -> None:
    """Integers of `width` bits: whole bytes as planes from the lowest, then the bits above them packed."""
    for byte in range(width // 8):
        put_plain(out, (rest >> rest.dtype.type(8 * byte)).astype(np.uint8))
    if width % 8:
        put_plain(out, pack_bits(rest >> rest.dtype.type(width // 8 * 8), width % 8))


def _get_low(cursor: Cursor, count: int, width: int) -> np.ndarray:
    """Inverse of `_put_low`; unsigned integers of `uint(width)`."""
    kind = uint(width)
    rest = np.zeros(count, kind)
    for byte in range(width // 8):
        plane = np.frombuffer(cursor.plain(count, "low bits"), np.uint8)
        rest |= plane.astype(kind, copy=False) << kind.type(8 * byte)
    if width % 8:
        top = unpack_bits(cursor.plain(packed_size(count, width % 8), "low bits"), count, width % 8)
        rest |= top.astype(kind, copy=False) << kind.type(width // 8 * 8)
    return rest


def _integers(dtype: torch.dtype) -> torch.dtype:
    """Signed integers of the dtype's width."""
    return torch.int16 if dtype.itemsize == 2 else torch.int32


def _planes(words: np.ndarray, size: int) -> bytes:
    """Bytes of the words, all lowest bytes first."""
    return np.ascontiguousarray(np.ascontiguousarray(words).view(np.uint8).reshape(-1, size).T).tobytes()


def _joined(planes: np.ndarray) -> np.ndarray:
    """Inverse of `_planes`: (size, n) bytes -> n words."""
    return np.ascontiguousarray(planes.T).view(f"<u{len(planes)}").reshape(-1)
