"""FedSRD by its dense formulas, in float64: matrices of size (O, I), full SVDs and pseudo-inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thinwire.lowrank import LowRank

Change = tuple[Tensor, Tensor]
"""(dA, dB) of one client."""


def mean_product(module: LowRank, changes: Sequence[Change], weights: Sequence[float]) -> Tensor:
    """`sum_k p_k (B + dB_k)(A + dA_k)`."""
    b, a = module.b.double(), module.a.double()
    return sum(p * (b + db.double()) @ (a + da.double()) for p, (da, db) in zip(weights, changes, strict=True))


def best(matrix: Tensor, rank: int) -> Tensor:
    """Best approximation of that rank, by a full SVD."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def wanted(module: LowRank, changes: Sequence[Change], weights: Sequence[float], svd: bool) -> Tensor:
    """D: what the product should change by."""
    mean = mean_product(module, changes, weights)
    return (best(mean, module.rank) if svd else mean) - module.b.double() @ module.a.double()


def pinv(b: Tensor, d: Tensor, mean: Tensor) -> Tensor:
    """`pinv(B) D`."""
    return torch.linalg.pinv(b.double(), rtol=1e-6) @ d


def damped(b: Tensor, d: Tensor, mean: Tensor, share: float = 0.05) -> Tensor:
    """`(B'B + share |B'B|_2 I)^-1 B' D`; 0 for B = 0."""
    b = b.double()
    square = b.T @ b
    top = float(torch.linalg.matrix_norm(square, 2))
    return torch.zeros_like(mean).double() if top == 0 else torch.linalg.solve(_plus(square, share * top), b.T @ d)


def bounded(b: Tensor, d: Tensor, mean: Tensor) -> Tensor:
    """`M + (B'B + lambda I)^-1 B'(D - B M)` with the smallest lambda, by bisection, that keeps it no longer than M."""
    b, mean = b.double(), mean.double()
    rest, limit = b.T @ (d - b @ mean), float(mean.norm())
    top = float(torch.linalg.matrix_norm(b, 2)) ** 2
    free = torch.linalg.pinv(b, rtol=1e-6) @ (d - b @ mean)
    if top == 0 or float(free.norm()) <= limit:
        return mean + free
    low, high = 1e-20 * top, 1e20 * top
    for _ in range(200):
        middle = math.sqrt(low * high)
        long = float(torch.linalg.solve(_plus(b.T @ b, middle), rest).norm()) > limit
        low, high = (middle, high) if long else (low, middle)
    return mean + torch.linalg.solve(_plus(b.T @ b, high), rest)


def _plus(square: Tensor, shift: float) -> Tensor:
    return square + shift * torch.eye(len(square), dtype=torch.float64)


def update(
    module: LowRank, changes: Sequence[Change], weights: Sequence[float], part: str, svd: bool, solve: str = "pinv"
) -> Tensor:
    """The server's DA or DB."""
    rule = {"pinv": pinv, "damped": damped, "bounded": bounded}[solve]
    d = wanted(module, changes, weights, svd)
    if part == "a":
        return rule(module.b, d, sum(p * da.double() for p, (da, _) in zip(weights, changes, strict=True)))
    return rule(module.a.T, d.T, sum(p * db.double().T for p, (_, db) in zip(weights, changes, strict=True))).T


def sparsified(scores: Tensor, change: Tensor, base: float, coefficient: float, upper: float, rescale: bool) -> Tensor:
    """The upload's steps 2 and 3, entry by entry."""
    flat = scores.double().reshape(-1)
    variance = ((flat - flat.mean()) ** 2).mean()
    kurtosis = float(((flat - flat.mean()) ** 4).mean() / variance**2) if variance > 0 else 1.0
    rate = base + min(upper, coefficient * math.log(max(kurtosis, 1.0)))
    kept = torch.where(flat >= torch.quantile(flat, rate), change.double().reshape(-1), 0.0)
    if rescale and float(kept.abs().sum()) > 0:
        kept = kept * change.double().abs().sum() / kept.abs().sum()
    return kept.reshape(change.shape)
