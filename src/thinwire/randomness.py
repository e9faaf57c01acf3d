"""The one source of random numbers: counter-based, the same on every platform, specified in docs/wire.md.

Philox 4x64 with 10 rounds (Salmon et al., SC 2011), keyed by BLAKE2b of (seed, purpose, names). The noise of privacy,
which never travels by its seed, comes from SHAKE-256 instead: nobody can predict it without the key. Nothing here or
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

DEVIATES = 1 << 16
"""Normal deviates of one block."""


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


def secret_key(seed: int, *names: str | int) -> bytes:
    """A 256-bit key for a purpose: BLAKE2b of the parts joined by zeros. As secret as `seed` is."""
    return hashlib.blake2b(_joined(seed, *names), digest_size=32).digest()


def normal(key: bytes, *shape: int) -> Tensor:
    """Float64 standard normal deviates of a cryptographic stream: without `key`, none can be told from the others.

    Block n gives 65,536 deviates: the first bytes of SHAKE-256 of the key and n (8 bytes, little-endian), as
    little-endian 64-bit words w. From words 2i and 2i + 1 come u = (floor(w / 2^11) + 1) / 2^53, v = floor(w / 2^11) /
    2^53, and deviates 2i and 2i + 1, `sqrt(-2 ln u)` times `cos(2 pi v)` and `sin(2 pi v)`: none is beyond 8.6.
    Platforms agree up to the last bits of ln, cos and sin. Source: Box and Muller 1958.
    """
    count = int(np.prod(shape))
    blocks = [_deviates(key, block, min(DEVIATES, count - at)) for block, at in enumerate(range(0, count, DEVIATES))]
    return torch.from_numpy(np.concatenate(blocks) if blocks else np.empty(0)).reshape(shape)


def _deviates(key: bytes, block: int, count: int) -> np.ndarray:
    pairs = (count + 1) // 2
    raw = hashlib.shake_256(key + block.to_bytes(8, "little")).digest(16 * pairs)
    words53 = (np.frombuffer(raw, dtype="<u8") >> np.uint64(11)).astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log((words53[0::2] + 1) * 2.0**-53)), (2 * np.pi * 2.0**-53) * words53[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def _threshold(density: float) -> int:
    return int(density * 2**32)


def _hits(seed: int, count: int, density: float, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first index, which of the next `STRIDE` are kept), piece by piece."""
    below = np.uint32(_threshold(density))
    for at in range(start, start + count, STRIDE):
        yield at, words(seed, min(STRIDE, start + count - at), at) < below


def _key(seed: int, *names: str | int) -> int:
    return int.from_bytes(hashlib.blake2b(_joined(seed, *names), digest_size=16).digest(), "little")


def _joined(*parts: str | int) -> bytes:
    return "\0".join(str(part) for part in parts).encode()
