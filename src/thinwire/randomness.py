"""The one source of random numbers: counter-based, the same on every platform, specified in docs/wire.md.

Philox 4x64 with 10 rounds (Salmon et al., SC 2011), keyed by BLAKE2b of (seed, purpose, names). Nothing here or
elsewhere draws from a global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""32-bit words of one Philox output."""

STRIDE = 1 << 18
"""Words drawn at a time, so that a mask of any size needs little memory."""


def derive(seed: int, *names: str | int) -> int:
    """A 64-bit seed for a purpose: the first 8 bytes, little-endian, of BLAKE2b-128 of the parts joined by zeros."""
    return _key(seed, *names) & 0xFFFFFFFFFFFFFFFF


def words(seed: int, count: int, start: int = 0) -> np.ndarray:
    """`count` uniform 32-bit words from word `start` on, in time O(count).

    The low, then the high half of each 64-bit output of Philox4x64-10 under key `seed`; counters begin at 1.
    """
    skip = start % BLOCK
    generator = np.random.Philox(key=seed, counter=start // BLOCK)
    raw = generator.random_raw((skip + count + 1) // 2)
    return np.asarray(raw, dtype="<u8").view("<u4")[skip : skip + count]


def uniform(seed: int, *shape: int) -> Tensor:
    """Float32 uniforms in [0, 1): the top 24 bits of each word over 2^24."""
    count = int(np.prod(shape))
    values = (words(seed, count) >> 8).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(values).reshape(shape)


def seeded_mask(seed: int, count: int, density: float, start: int = 0) -> Tensor:
    """Sorted flat indices (int64) in start..start+count-1 whose word is below `floor(density * 2^32)`.

    Density 1 keeps all. Any part of a mask is drawn without the rest.
    """
    if _threshold(density) >= 2**32:
        return torch.arange(start, start + count)
    pieces = [np.flatnonzero(hits) + at for at, hits in _hits(seed, count, density, start)]
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64, copy=False) if pieces else np.empty(0, np.int64))


def seeded_count(seed: int, count: int, density: float) -> int:
    """Number of positions that `seeded_mask` keeps, in little memory."""
    if _threshold(density) >= 2**32:
        return count
    return sum(int(np.count_nonzero(hits)) for _, hits in _hits(seed, count, density, 0))


def permutation(seed: int, count: int) -> list[int]:
    """A permutation of range(count): positions ordered by a 64-bit word each, ties by position."""
    raw = np.random.Philox(key=seed, counter=0).random_raw(count)
    return np.argsort(raw, kind="stable").tolist()


def _threshold(density: float) -> int:
    return int(density * 2**32)


def _hits(seed: int, count: int, density: float, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first index, which of the next `STRIDE` are kept), piece by piece."""
    below = np.uint32(_threshold(density))
    for at in range(start, start + count, STRIDE):
        yield at, words(seed, min(STRIDE, start + count - at), at) < below


def _key(seed: int, *names: str | int) -> int:
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
