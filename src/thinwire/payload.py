"""What travels: leaves, each with positions (all, listed, or drawn by a seed) and values (floats or codes)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.adapters import Key
from thinwire.randomness import seeded_mask
from thinwire.values import PER


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


@dataclass(frozen=True)
class Codes:
    """Values at the kept positions as integers: `scale[g] * (level - zero[g])` with g the group of the position.

    codes: uint8 in 0..2^bits-1, in order. scale: float32, finite, not negative, one a group; zero: int32 likewise, or
    None (symmetric). Levels are `code - 2^(bits-1)`; symmetric codes of 1 bit stand for -1 and 1. per: "tensor" has one
    group, "channel" one for each index of the first dimension, "row" one for each vector along the last.
    """

    codes: Tensor
    bits: int
    scale: Tensor
    zero: Tensor | None = None
    per: str = "tensor"

    def floats(self, shape: tuple[int, ...], indices: Tensor | None) -> Tensor:
        """The values, float32 (kept,), of a leaf of this shape that keeps these flat indices (None: all)."""
        symmetric = self.zero is None and self.bits == 1
        levels = self.codes.int() * 2 - 1 if symmetric else self.codes.int() - (1 << self.bits - 1)
        if self.per == "tensor":
            scale, zero = self.scale, self.zero
        else:
            where = torch.arange(math.prod(shape)) if indices is None else indices
            place = where // group_width(shape, self.per)
            scale, zero = self.scale[place], None if self.zero is None else self.zero[place]
        if zero is None:
            return levels.float() * scale
        return ((levels.double() - zero.double()) * scale.double()).float()




def group_width(shape: tuple[int, ...], per: str) -> int:
    """Number of consecutive values that share a scale."""
    match per:
        case "tensor":
            return math.prod(shape)
        case "row":
            return shape[-1] if shape else 1
        case "channel":
            return math.prod(shape[1:])
    raise ValueError(f"per = {per!r}: allowed are {', '.join(PER)}")


def groups(shape: tuple[int, ...], per: str) -> int:
    """Number of scales of a leaf: 1 for a tensor, else size over `group_width`."""
    if per == "tensor":
        return 1
    width = group_width(shape, per)
    return math.prod(shape) // width if width else 0


Positions = All | Listed | Seeded
Values = Floats | Codes


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
        return (self.values.tensor if isinstance(self.values, Floats) else self.values.codes).numel()

    def indices(self) -> Tensor | None:
        """Flat indices of the kept positions, or None when all are kept."""
        match self.positions:
            case All():
                return None
            case Listed(indices):
                return indices
            case Seeded(seed, density):
                return seeded_mask(seed, self.size, density)

    def floats(self) -> Tensor:
        """The kept values as they are, or the float32 that codes stand for; (kept,)."""
        if isinstance(self.values, Floats):
            return self.values.tensor
        return self.values.floats(self.shape, self.indices())

    def dense(self) -> Tensor:
        """The tensor it stands for: float32, zero where nothing was kept."""
        values, where = self.floats().float(), self.indices()
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
    broadcast is applied, or that an upload was trained from. run: the id of its run; others refuse it.
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


PAYLOAD_KINDS = ("state", "change")


def same(one: Payload, other: Payload) -> bool:
    """Equal to the last bit, NaN payloads included."""
    if (one.kind, one.version, one.run) != (other.kind, other.version, other.run):
        return False
    return list(one.leaves) == list(other.leaves) and all(
        same_leaf(leaf, other.leaves[key]) for key, leaf in one.leaves.items()
    )


def same_leaf(one: Leaf, other: Leaf) -> bool:
    """Equal shape, positions and values, to the last bit."""
    if one.shape != other.shape or type(one.positions) is not type(other.positions):
        return False
    if type(one.values) is not type(other.values):
        return False
    fields = [(getattr(a, name), getattr(b, name)) for a, b in _pairs(one, other) for name in vars(a)]
    return all(_same(mine, yours) for mine, yours in fields)


WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _pairs(one: Leaf, other: Leaf) -> tuple[tuple[object, object], ...]:
    return (one.positions, other.positions), (one.values, other.values)


def _same(mine: object, yours: object) -> bool:
    if not isinstance(mine, Tensor) or not isinstance(yours, Tensor):
        return type(mine) is type(yours) and mine == yours
    if mine.dtype != yours.dtype or mine.shape != yours.shape:
        return False
    return mine.detach().flatten().view(WORDS[mine.itemsize]).equal(yours.detach().flatten().view(WORDS[mine.itemsize]))
