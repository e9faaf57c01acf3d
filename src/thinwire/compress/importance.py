"""FedSRD's importance: each entry's contribution to the Frobenius norm of the change of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, Key
from thinwire.compress import StepContext
from thinwire.payload import Floats, Leaf, Leaves, sparse


@dataclass(frozen=True)
class KurtosisRate:
    """FedSRD's drop rate of one tensor: `base + min(cap, rise * ln(max(kurtosis, 1)))`; constant or zero scores: base.

    Source: FedSRD, arXiv:2510.04601. With the published rise .1 and cap .11 the cap binds from kurtosis 3.004 on.
    """

    base: float
    rise: float
    cap: float

    def __call__(self, scores: Tensor) -> float:
        return min(self.base + min(self.cap, self.rise * math.log(max(pearson_kurtosis(scores), 1.0))), 1.0)


@dataclass(frozen=True)
class ImportanceDrop:
    """Drop, in every tensor by itself, the entries below the quantile of the scores at the tensor's drop rate.

    `rescale` multiplies what stays by `|d|_1 before / |d|_1 after`, unless nothing is left. Source: FedSRD.
    """

    rate: KurtosisRate
    rescale: bool

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        return {key: self.drop(key, leaf, context) for key, leaf in leaves.items()}

    def drop(self, key: Key, leaf: Leaf, context: StepContext) -> Leaf:
        values = leaf.dense()
        scores = importance(key, values, context.before, context.after)
        kept = above(values, scores, quantile(scores, self.rate(scores)))
        left = float(kept.floats().abs().sum(dtype=torch.float64))
        if not self.rescale or left == 0:
            return kept
        factor = float(values.abs().sum(dtype=torch.float64)) / left
        return Leaf(kept.shape, kept.positions, Floats(kept.floats() * factor))


@dataclass(frozen=True)
class ImportanceBudget:
    """Keep a share `1 - rate` of all factor entries of the model, wherever they are most important.

    The scores of all modules are in one unit, the change of their products, so one threshold shares the budget out:
    layers and factors that matter more keep more. Extras, which have no such unit, are cut each at the same rate.
    Ours, in place of FedSRD's kurtosis rule, which hardly moves on real scores.
    """

    rate: float

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        values = {key: leaf.dense() for key, leaf in leaves.items()}
        scores = {key: importance(key, tensor, context.before, context.after) for key, tensor in values.items()}
        factors = [tensor.reshape(-1) for key, tensor in scores.items() if key[1] != EXTRA]
        shared = quantile(torch.cat(factors), self.rate) if factors else 0.0
        limits = {key: quantile(tensor, self.rate) if key[1] == EXTRA else shared for key, tensor in scores.items()}
        return {key: above(tensor, scores[key], limits[key]) for key, tensor in values.items()}


def importance(key: Key, change: Tensor, before: Adapters, after: Adapters) -> Tensor:
    """Scores of a change: `|dB| * |A's row|` with the old A, `|dA| * |B's column|` with the new B, `|d|` for extras.

    Shapes: as the change. Source: FedSRD: the two terms of `dB A + B_k dA`.
    """
    name, part = key
    if part == "b":
        return change.abs() * before.modules[name].a.norm(dim=1)
    if part == "a":
        return change.abs() * after.modules[name].b.norm(dim=0)[:, None]
    return change.abs()


def above(values: Tensor, scores: Tensor, limit: float) -> Leaf:
    """The values whose score is not below the limit; zeros, which say nothing, never travel."""
    return sparse(values, (scores.double() >= limit) & (values != 0))


def quantile(scores: Tensor, rate: float) -> float:
    """The quantile at `rate`, by linear interpolation between the two nearest scores; for tensors of any size."""
    place = rate * (scores.numel() - 1)
    around = [math.floor(place), math.ceil(place)]
    low, high = np.partition(scores.reshape(-1).cpu().numpy(), around)[around].tolist()
    return low + (high - low) * (place - math.floor(place))


def pearson_kurtosis(scores: Tensor) -> float:
    """Fourth standardised moment (a Gaussian has 3); 1 for constant scores."""
    scores = scores.double()
    centred = scores - scores.mean()
    variance = float(centred.square().mean())
    if variance <= 1e-24 * float(scores.square().mean()) or variance == 0.0:
        return 1.0
    return float(centred.pow(4).mean()) / variance**2
