"""Quantise the values that are left to b bits, with one scale a tensor, row or channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.compress import StepContext
from thinwire.payload import PER, Codes, Leaf, Leaves, group_width, groups
from thinwire.randomness import uniform

FARTHEST = 2.0**30
"""Largest zero point; a group that lies farther from 0, measured in steps, counts as constant."""


@dataclass(frozen=True)
class Quantise:
    """Kept values as codes of `bits` bits, 1..8; 1-D tensors (norms, biases) stay as they are.

    Affine: `scale = (max - min) / (2^b - 1)`, `zero = round(-2^(b-1) - min / scale)`, `level = clamp(round(x / scale) +
    zero)`. Symmetric: `scale = max|x| / (2^(b-1) - 1)`; one bit holds the sign and `scale = mean|x|` (max|x| if
    stochastic). A group with max = min stores that constant exactly.
    stochastic: round up with the probability of the fraction, so that the mean is kept; drawn from the context's seed.
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

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        return {
            key: leaf if len(leaf.shape) < 2 else replace(leaf, values=self.codes(leaf, context.derive("round", *key)))
            for key, leaf in leaves.items()
        }

    def codes(self, leaf: Leaf, seed: int) -> Codes:
        """The leaf's kept values as codes; `seed` draws the stochastic rounding."""
        values = leaf.floats().float()
        if not values.isfinite().all():
            raise ValueError("Quantise: values are not finite")
        place = self.place(leaf)
        noise = uniform(seed, len(values)).double() if self.stochastic else torch.full((len(values),), 0.5).double()
        fit = self.symmetric_codes if self.symmetric else self.affine_codes
        return fit(values.double(), place, groups(leaf.shape, self.per), noise)

    def place(self, leaf: Leaf) -> Tensor:
        """Group of each kept value, int64 (kept,)."""
        where = leaf.indices()
        where = torch.arange(leaf.size) if where is None else where
        return where // max(group_width(leaf.shape, self.per), 1)

    def affine_codes(self, values: Tensor, place: Tensor, count: int, noise: Tensor) -> Codes:
        """Codes with zero points. values, place, noise: (kept,), float64, int64, float64 in [0, 1)."""
        half, (low, high) = 1 << self.bits - 1, extremes(values, place, count)
        scale = ((high - low) / ((1 << self.bits) - 1)).float()
        flat = low.abs() >= scale.double() * FARTHEST
        scale = torch.where(flat, low.abs().float(), scale)
        step = torch.where(scale == 0, 1.0, scale.double())
        zero = torch.where(flat, -half - low.sign(), (-half - low / step).round())
        level = ((values / step[place] + noise).floor() + zero[place]).clamp(-half, half - 1)
        return self._codes(torch.where(flat[place], -half, level) + half, scale, zero.int())

    def symmetric_codes(self, values: Tensor, place: Tensor, count: int, noise: Tensor) -> Codes:
        """Codes without zero points; arguments as `affine_codes`."""
        low, high = extremes(values, place, count)
        scale, half = torch.maximum(low.abs(), high.abs()), 1 << self.bits - 1
        if self.bits == 1:
            if not self.stochastic:
                total = torch.zeros_like(low).index_add_(0, place, values.abs())
                scale = torch.where(low == high, scale, total / torch.bincount(place, minlength=count).clamp(min=1))
            scale = scale.float()
            step = torch.where(scale == 0, 1.0, scale.double())
            return self._codes(values / step[place] / 2 + noise >= 0.5, scale, None)
        most = half - 1
        scale = torch.where(low == high, scale, scale / most).float()
        step = torch.where(scale == 0, 1.0, scale.double())
        level = (values / step[place] + noise).floor().clamp(-most, most)
        return self._codes(level + half, scale, None)

    def _codes(self, codes: Tensor, scale: Tensor, zero: Tensor | None) -> Codes:
        return Codes(codes.to(torch.uint8), self.bits, scale, zero, self.per)


def extremes(values: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each group, 0 for groups without values; (count,)."""
    low, high = (torch.zeros(count, dtype=values.dtype) for _ in range(2))
    low.scatter_reduce_(0, place, values, "amin", include_self=False)
    return low, high.scatter_reduce_(0, place, values, "amax", include_self=False)
