"""A product of two factors, and what is computed on it: sums, norms, inner products, distances, residuals."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-6
"""Singular values below this fraction of a factor's largest count as zero: float32 factors resolve no smaller ones."""

BLOCK = 1024
"""Rows that are converted to float64 at a time: one block fits the cache, and no float64 copy of a factor is made."""


@dataclass(frozen=True)
class LowRank:
    """`scale * b @ a`: b (..., O, r), a (..., r, I). The scale is used once, in a product, and never folded in."""

    b: Tensor
    a: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.a.shape[-2]

    @property
    def T(self) -> LowRank:
        """The transposed product: factors swapped and transposed."""
        return LowRank(self.a.mT, self.b.mT, self.scale)

    def double(self) -> LowRank:
        return replace(self, b=self.b.double(), a=self.a.double())


def stack(terms: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """`sum_k w_k * term_k` exactly, as one pair of inner rank `sum_k r_k` and scale 1.

    Source: FLoRA, arXiv:2409.05976. Each term brings its own scale.
    """
    a = torch.cat([weight * term.scale * term.a for term, weight in zip(terms, weights, strict=True)], dim=-2)
    return LowRank(torch.cat([term.b for term in terms], dim=-1), a)


def gram(x: Tensor, y: Tensor) -> Tensor:
    """`x' y` in float64, block of rows by block of rows. Shapes: (..., N, m), (..., N, n) -> (..., m, n)."""
    blocks = [slice(start, start + BLOCK) for start in range(0, x.shape[-2], BLOCK)]
    products = (x[..., rows, :].double().mT @ y[..., rows, :].double() for rows in blocks)
    return functools.reduce(Tensor.add_, products)


def inner(x: LowRank, y: LowRank) -> Tensor:
    """Frobenius inner product of two products, float64 (...). Cost: O((O + I) r^2).

    Error: 1e-15 of the product of all four factors' norms.
    """
    return x.scale * y.scale * (gram(x.b, y.b) * gram(x.a.mT, y.a.mT)).sum(dim=(-2, -1))


def norm(x: LowRank) -> Tensor:
    """Frobenius norm of the product, float64 (...), through QR of both factors.

    Error: 1e-15 of the product of the factors' norms, so that small distances are resolved.
    """
    _, left = torch.linalg.qr(x.b.double(), mode="r")
    _, right = torch.linalg.qr(x.a.mT.double(), mode="r")
    return abs(x.scale) * torch.linalg.matrix_norm(left @ right.mT)


def split(x: LowRank, rank: int) -> tuple[LowRank, LowRank]:
    """Best rank-`rank` approximation of the product in the Frobenius norm, and the rest; both of scale 1, float64.

    Shapes: (..., O, R), (..., R, I) -> (..., O, rank), (..., rank, I) and the remaining R - rank.
    Cost: O((O + I) R^2 + R^3).
    The approximation's factors share the singular values evenly. Raises: ValueError if rank is not in 1..R.
    Source: Eckart-Young; FedSRD's decompose step. Differs: the official code runs a full SVD of the (O, I) mean.
    """
    if not 1 <= rank <= x.rank:
        raise ValueError(f"rank = {rank}: allowed is 1..{x.rank}")
    x = x.double()
    left, left_core = torch.linalg.qr(x.b)
    right, right_core = torch.linalg.qr(x.a.mT)
    u, s, vt = torch.linalg.svd(x.scale * left_core @ right_core.mT, full_matrices=False)
    root = s.sqrt()
    b, a = left @ (u * root[..., None, :]), (root[..., :, None] * vt) @ right.mT
    return LowRank(b[..., :rank], a[..., :rank, :]), LowRank(b[..., rank:], a[..., rank:, :])


def truncate(x: LowRank, rank: int) -> LowRank:
    """Best rank-`rank` approximation of the product, scale 1, in the input's dtype. Raises: ValueError as `split`.

    Error: 1e-15 of the product's largest singular value, before it is rounded to the input's dtype.
    """
    best, _ = split(x, rank)
    return LowRank(best.b.to(x.b.dtype), best.a.to(x.a.dtype))


def principal(total: LowRank, module: LowRank) -> LowRank:
    """The best approximation of `total` of the module's rank, `b = U diag(s)` and `a = V'`, by falling s.

    A component with s below 1e-6 of the largest has b zero and the module's own row of A.
    """
    best = truncate(total, min(module.rank, total.rank))
    root = best.b.norm(dim=0)
    kept = int((root.square() > 1e-6 * root.square().max()).sum()) if bool(root.any()) else 0
    b = torch.cat([best.b[:, :kept] * root[:kept], torch.zeros_like(module.b[:, kept:])], dim=1)
    return LowRank(b, torch.cat([best.a[:kept] / root[:kept, None], module.a[kept:]]), module.scale)


def unit_weights(weights: Sequence[float]) -> list[float]:
    """The weights over their exact sum. Raises: ValueError unless they are finite, not negative and not all zero."""
    total = math.fsum(weights)
    if not (math.isfinite(total) and total > 0 and min(weights) >= 0):
        raise ValueError(f"weights {list(weights)}: they must be finite, not negative and not all zero")
    return [weight / total for weight in weights]
