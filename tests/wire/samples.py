"""Payloads for the wire's tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thinwire.payload import All, Codes, Floats, Leaf, Listed, Payload, Seeded, groups
from thinwire.randomness import seeded_mask
from thinwire.wire import Expect, open_payload, pack, unpack

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KEY = ("layers.0.q", "b")


def random_bits(rng: np.random.Generator, count: int, dtype: torch.dtype) -> Tensor:
    """Any bit patterns: NaN payloads, infinities, denormals, negative zeros."""
    integers = np.frombuffer(rng.bytes(count * dtype.itemsize), f"<i{dtype.itemsize}").copy()
    return torch.from_numpy(integers).view(dtype)


def gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32) * np.float32(1e-3))


def positions(rng: np.random.Generator, shape: tuple[int, ...], density: float, kind: str) -> All | Listed | Seeded:
    """Positions of a kind: all, seeded, or listed with even, row-wise, column-wise or striped density."""
    size = int(np.prod(shape))
    if kind == "all":
        return All()
    if kind == "seeded":
        return Seeded(int(rng.integers(0, 2**63)), density)
    chance = np.full((shape[0] if shape else 1, size // (shape[0] if shape and shape[0] else 1)), density)
    if kind in ("rows", "both"):
        chance = chance * np.exp(1.5 * rng.standard_normal((len(chance), 1)))
    if kind in ("columns", "both"):
        chance = chance * np.exp(1.5 * rng.standard_normal((1, chance.shape[1])))
    keep = rng.random(chance.shape) < chance
    if kind == "striped":
        keep = np.arange(size) % 7 == 3
    return Listed(torch.from_numpy(np.flatnonzero(keep)))


def kept(shape: tuple[int, ...], places: All | Listed | Seeded) -> int:
    size = int(np.prod(shape))
    match places:
        case All():
            return size
        case Listed(indices):
            return len(indices)
        case Seeded(seed, density):
            return len(seeded_mask(seed, size, density))


def codes(rng: np.random.Generator, count: int, bits: int, shape: tuple[int, ...], per: str, affine: bool) -> Codes:
    number = groups(shape, per)
    scale = torch.from_numpy(rng.random(number, np.float32))
    zero = torch.from_numpy(rng.integers(-(2**31), 2**31, number).astype(np.int32)) if affine else None
    return Codes(torch.from_numpy(rng.integers(0, 1 << bits, count).astype(np.uint8)), bits, scale, zero, per)


def one(leaf: Leaf) -> Payload:
    return Payload("change", 3, 17, {KEY: leaf})


def floats(shape: tuple[int, ...], places: All | Listed | Seeded, tensor: Tensor) -> Payload:
    return one(Leaf(shape, places, Floats(tensor)))


def expect(payload: Payload, limit: int = 1 << 31) -> Expect:
    return Expect({key: leaf.shape for key, leaf in payload.leaves.items()}, limit=limit)


__all__ = ["open_payload", "pack", "unpack"]
