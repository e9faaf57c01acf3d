"""What travels: leaves, each a choice of positions (all, listed, or drawn by a seed) and of values (floats or codes)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.adapters import Key
from thinwire.randomness import seeded_mask


@dataclass(frozen=True)
class All:
    """Every position of the tensor, in row-major order."""


@dataclass(frozen=True)
class Listed:
    """Kept positions as sorted, distinct, flat row-major indices (int64)."""

    indices: Tensor


@dataclass(frozen=True)
class Seeded:
    """Kept positions drawn by `seeded_mask(seed, count, density)`: only the seed and the density travel."""

    seed: int
    density: float


@dataclass(frozen=True)
class Floats:
    """Values at the kept positions, in order: float32, bfloat16 or float16."""

    tensor: Tensor


Positions = All | Listed | Seeded
Values = Floats


@dataclass(frozen=True)
class Leaf:
    """One tensor as it travels: its shape, which positions are kept, and their values."""

    shape: tuple[int, ...]
    positions: Positions
    values: Values

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of values that travel."""
        return self.values.tensor.numel()

    def indices(self) -> Tensor | None:
        """Flat indices of the kept positions, or None when all are kept."""
        match self.positions:
            case All():
                return None
            case Listed(indices):
                return indices
            case Seeded(seed, density):
                return seeded_mask(seed, self.size, density)

    def dense(self) -> Tensor:
        """The tensor it stands for: float32, zero where nothing was kept."""
        values, where = self.values.tensor.float(), self.indices()
        if where is None:
            return values.reshape(self.shape)
        return torch.zeros(self.size).scatter_(0, where, values).reshape(self.shape)


def dense(tensor: Tensor) -> Leaf:
    """A leaf that keeps every value as it is."""
    return Leaf(tuple(tensor.shape), All(), Floats(tensor.reshape(-1)))


def sparse(tensor: Tensor, keep: Tensor) -> Leaf:
    """A leaf that keeps the positions where the boolean tensor `keep` is true."""
    indices = keep.reshape(-1).nonzero().squeeze(1)
    return Leaf(tuple(tensor.shape), Listed(indices), Floats(tensor.reshape(-1)[indices]))


Leaves = Mapping[Key, Leaf]


@dataclass(frozen=True)
class Payload:
    """One message.

    kind: "state" replaces what the receiver holds, "change" is added to it. version: of the global adapters after a
    broadcast is applied, or that an upload was trained from. run: the run it belongs to (its seed); others refuse it.
    """

    kind: str
    version: int
    run: int
    leaves: Leaves

    @property
    def density(self) -> float:
        """Fraction of values kept; 0 for an empty payload."""
        size = sum(leaf.size for leaf in self.leaves.values())
        return sum(leaf.kept for leaf in self.leaves.values()) / size if size else 0.0


KINDS = ("state", "change")
