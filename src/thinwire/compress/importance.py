"""FedSRD's importance: each entry's contribution to the Frobenius norm of the change of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.adapters import Adapters, Key
from thinwire.compress import Link
from thinwire.payload import Leaf, Leaves, sparse


@dataclass(frozen=True)
class ImportanceDrop:
    """Drop the least important entries of every tensor; what is kept adapts to the kurtosis of its scores.

    `rate = base + min(upper, coefficient * ln(max(kurtosis / reference, 1)))`, entries with `score < quantile(score,
    rate)` are dropped; `rescale` multiplies what stays by `|d|_1 before / |d|_1 after`. Constant or zero scores: base.
    Source: FedSRD, arXiv:2510.04601. The published reference is 1 and upper .11, so that the cap binds from kurtosis
    3.004 on and the rate never adapts; a Gaussian's 3 as the reference makes it adapt.
    """

    base: float
    upper: float = 0.0
    coefficient: float = 0.0
    reference: float = 1.0
    rescale: bool = False

    def __call__(self, leaves: Leaves, link: Link) -> Leaves:
        return {key: self.drop(key, leaf, link) for key, leaf in leaves.items()}

    def rate(self, scores: Tensor) -> float:
        """The drop rate for these scores, at most 1."""
        kurtosis = pearson_kurtosis(scores)
        rise = self.coefficient * math.log(max(kurtosis / self.reference, 1.0))
        return min(self.base + min(self.upper, rise), 1.0)

    def drop(self, key: Key, leaf: Leaf, link: Link) -> Leaf:
        values = leaf.values.tensor.reshape(leaf.shape)
        scores = importance(key, values, link.before, link.after)
        rate = self.rate(scores)
        kept = sparse(values, keep_top(scores, rate))
        left = float(kept.values.tensor.abs().sum(dtype=torch.float64))
        if not self.rescale or left == 0:
            return kept
        factor = float(values.abs().sum(dtype=torch.float64)) / left
        return Leaf(kept.shape, kept.positions, type(kept.values)(kept.values.tensor * factor))


def importance(key: Key, change: Tensor, before: Adapters, after: Adapters) -> Tensor:
    """Scores of a change: `|dB| * |A's row|` with the old A, `|dA| * |B's column|` with the new B, `|d|` for extras.

    Shapes: as the change. Source: FedSRD: the two terms of `dB A + B_k dA`.
    """
    name, part = key
    if part == "b":
        return change.abs() * before.sites[name].a.norm(dim=1)
    if part == "a":
        return change.abs() * after.sites[name].b.norm(dim=0)[:, None]
    return change.abs()


def keep_top(scores: Tensor, rate: float) -> Tensor:
    """True where a score is not below the linear-interpolation quantile at `rate`; shape of the scores."""
    flat = scores.reshape(-1)
    place = rate * (flat.numel() - 1)
    low = flat.kthvalue(math.floor(place) + 1).values.double()
    high = flat.kthvalue(math.ceil(place) + 1).values.double()
    return scores.double() >= low + (high - low) * (place - math.floor(place))


def pearson_kurtosis(scores: Tensor) -> float:
    """Fourth standardised moment (a Gaussian has 3); 1 for constant scores."""
    scores = scores.double()
    centred = scores - scores.mean()
    variance = float(centred.square().mean())
    if variance <= 1e-24 * float(scores.square().mean()) or variance == 0.0:
        return 1.0
    return float(centred.pow(4).mean()) / variance**2
