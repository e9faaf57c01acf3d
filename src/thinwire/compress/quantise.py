"""Quantise the values that are left to b bits, with one scale a tensor, row or channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.compress import Link
from thinwire.payload import PER, Codes, Leaf, Leaves, group_width, groups
from thinwire.randomness import uniform


@dataclass(frozen=True)
class Quantise:
    """Kept values as codes of `bits` bits, 1..8; 1-D tensors (norms, biases) stay as they are.

    Affine: `scale = (max - min) / (2^b - 1)`, `zero = round(-2^(b-1) - min / scale)`, `level = clamp(round(x / scale) +
    zero)`; symmetric: `scale = max|x| / (2^(b-1) - 1)`, for one bit mean|x|. A group with max = min stores that constant
    exactly. stochastic: round up with the probability of the fraction, so that the mean is kept, drawn from the link's seed.
    Source: FLoCoRA, arXiv:2406.14082. Differs: the official code does not round the zero point.
    Raises: ValueError for settings out of range or values that are not finite.
    """

    bits: int
    per: str = "tensor"
    symmetric: bool = False
    stochastic: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"Quantise: bits = {self.bits}: allowed is 1..8")
        if self.per not in PER:
            raise ValueError(f"Quantise: per = {self.per!r}: allowed are {', '.join(PER)}")

    def __call__(self, leaves: Leaves, link: Link) -> Leaves:
        return {
            key: leaf if len(leaf.shape) < 2 else replace(leaf, values=self.codes(leaf, link.derive("round", *key)))
            for key, leaf in leaves.items()
        }

    def codes(self, leaf: Leaf, seed: int) -> Codes:
        """The leaf's kept values as codes."""
        values = leaf.floats().float()
        if not values.isfinite().all():
            raise ValueError("Quantise: values are not finite")
        count = groups(leaf.shape, self.per)
        place = self._place(leaf, values.numel())
        noise = uniform(seed, values.numel()) if self.stochastic else 0.5
        low, high = _extremes(values, place, count)
        fit = self._symmetric if self.symmetric else self._affine
        return fit(values.double(), place, low.double(), high.double(), noise)

    def _place(self, leaf: Leaf, kept: int) -> Tensor:
        """Group of each kept value, int64 (kept,)."""
        if self.per == "tensor":
            return torch.zeros(kept, dtype=torch.int64)
        where = leaf.indices()
        return (torch.arange(leaf.size) if where is None else where) // group_width(leaf.shape, self.per)

    def _affine(self, values: Tensor, place: Tensor, low: Tensor, high: Tensor, noise: Tensor | float) -> Codes:
        half, constant = 1 << self.bits - 1, low == high
        scale = ((high - low) / ((1 << self.bits) - 1)).float()
        flat = constant | (scale == 0) | (low.abs() > scale.double() * 2**30)
        scale = torch.where(flat, low.abs().float(), scale)
        step = torch.where(scale == 0, 1.0, scale.double())
        zero = torch.where(flat, -half - low.sign(), (-half - low / step).round())
        level = (values / step[place] + noise).floor() + zero[place]
        level = torch.where(flat[place], -half, level.clamp(-half, half - 1))
        return Codes((level + half).to(torch.uint8), self.bits, scale, zero.int(), self.per)

    def _symmetric(self, values: Tensor, place: Tensor, low: Tensor, high: Tensor, noise: Tensor | float) -> Codes:
        half, most = 1 << self.bits - 1, max((1 << self.bits - 1) - 1, 1)
        largest = torch.maximum(low.abs(), high.abs())
        if self.bits == 1:
            total = torch.zeros_like(low).index_add_(0, place, values.abs())
            largest = total / torch.bincount(place, minlength=len(low)).clamp(min=1)
        scale = (largest / most).float()
        scale = torch.where((scale == 0) | (low == high), largest.float(), scale)
        if self.bits == 1:
            chance = values / torch.where(scale == 0, 1.0, scale.double())[place] / 2 + noise
            return Codes(
                (chance >= 0.5).to(torch.uint8) if self.stochastic else (values >= 0).to(torch.uint8),
                1,
                scale,
                None,
                self.per,
            )
        level = (values / torch.where(scale == 0, 1.0, scale.double())[place] + noise).floor().clamp(-most, most)
        return Codes((level + half).to(torch.uint8), self.bits, scale, None, self.per)


def _extremes(values: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each group, 0 for groups without values; float32 (count,)."""
    low = torch.zeros(count).scatter_reduce_(0, place, values, "amin", include_self=False)
    return low, torch.zeros(count).scatter_reduce_(0, place, values, "amax", include_self=False)
