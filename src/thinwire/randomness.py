"""The one source of random numbers: counter-based, the same on every platform, specified in docs/wire.md.

Philox 4x64 with 10 rounds (Salmon et al., SC 2011), keyed by BLAKE2b of (seed, purpose, names). Nothing here or
elsewhere draws from a global generator.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """A 64-bit seed for a purpose: the first 8 bytes, little-endian, of BLAKE2b-128 of the parts joined by a zero byte."""
    return _key(seed, *names) & 0xFFFFFFFFFFFFFFFF


def words(seed: int, count: int) -> np.ndarray:
    """`count` uniform 32-bit words: the low, then the high half of each 64-bit output of Philox4x64-10 under key `seed`."""
    raw = np.random.Philox(key=seed, counter=0).random_raw((count + 1) // 2)
    return np.asarray(raw, dtype="<u8").view("<u4")[:count]


def uniform(seed: int, *shape: int) -> Tensor:
    """Float32 uniforms in [0, 1): the top 24 bits of each word over 2^24."""
    count = int(np.prod(shape))
    values = (words(seed, count) >> 8).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(values).reshape(shape)


def seeded_mask(seed: int, count: int, density: float) -> Tensor:
    """Sorted flat indices (int64) of the positions whose word is below `floor(density * 2^32)`; density 1 keeps all."""
    threshold = int(density * 2**32)
    if threshold >= 2**32:
        return torch.arange(count)
    return torch.from_numpy(np.flatnonzero(words(seed, count) < np.uint32(threshold)).astype(np.int64))


def permutation(seed: int, count: int) -> list[int]:
    """A permutation of range(count): positions ordered by a 64-bit word each, ties by position."""
    raw = np.random.Philox(key=seed, counter=0).random_raw(count)
    return np.argsort(raw, kind="stable").tolist()


def _key(seed: int, *names: str | int) -> int:
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
