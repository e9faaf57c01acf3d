"""Low-rank algebra on factors: stack, truncate, project. No (O, I) matrix is ever formed.

Shapes: b (O, r), a (r, I), product `scale * b @ a` (O, I). Algebra runs in float64 on r-sized matrices and returns the
input's dtype; see `project` for the error bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-7
"""Singular values below this fraction of the largest count as zero (the float64 Gram matrix resolves no smaller ones)."""


@dataclass(frozen=True)
class LowRank:
    """`scale * b @ a`: b (O, r), a (r, I). The scale is used once, in a product, and never folded into a factor."""

    b: Tensor
    a: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def T(self) -> LowRank:
        """The transposed product: factors swapped and transposed."""
        return LowRank(self.a.T, self.b.T, self.scale)

    def double(self) -> LowRank:
        return replace(self, b=self.b.double(), a=self.a.double())


def stack(terms: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """`sum_k w_k * term_k` exactly, as one pair of inner rank `sum_k r_k` and scale 1.

    Source: FLoRA, arXiv:2409.05976. Each term brings its own scale.
    """
    a = torch.cat([weight * term.scale * term.a for term, weight in zip(terms, weights, strict=True)])
    return LowRank(torch.cat([term.b for term in terms], dim=1), a)


def split(x: LowRank, rank: int) -> tuple[LowRank, LowRank]:
    """Best rank-`rank` approximation of the product in the Frobenius norm, and the rest; both of scale 1, float64.

    Shapes: (O, R), (R, I) -> (O, rank), (rank, I) and the remaining R - rank. Cost: O((O + I) R^2 + R^3).
    The approximation's factors share the singular values evenly. Raises: ValueError if rank is not in 1..R.
    Source: Eckart-Young; FedSRD's decompose step. Differs: the official code runs a full SVD of the (O, I) mean.
    """
    if not 1 <= rank <= x.rank:
        raise ValueError(f"rank = {rank}: allowed is 1..{x.rank}")
    x = x.double()
    left, left_core = torch.linalg.qr(x.b)
    right, right_core = torch.linalg.qr(x.a.T)
    u, s, vt = torch.linalg.svd(x.scale * left_core @ right_core.T, full_matrices=False)
    root = s.sqrt()
    b, a = left @ (u * root), (root[:, None] * vt) @ right.T
    return LowRank(b[:, :rank], a[:rank]), LowRank(b[:, rank:], a[rank:])


def truncate(x: LowRank, rank: int) -> LowRank:
    """Best rank-`rank` approximation of the product, scale 1, in the input's dtype. Raises: ValueError as `split`."""
    best, _ = split(x, rank)
    return LowRank(best.b.to(x.b.dtype), best.a.to(x.a.dtype))


def mean_product(
    site: LowRank,
    changes: Sequence[tuple[Tensor, Tensor]],  # K of da (r, I), db (O, r)
    weights: Sequence[float],
) -> LowRank:
    """`sum_k p_k (B + dB_k)(A + dA_k)` of inner rank K r without near-duplicate columns, float64, scale 1.

    A Householder reflection whose first column is sqrt(p) gathers the means in the first block, so the other blocks
    hold differences between clients only: `(B + mean dB)(A + mean dA) + sum_j dB~_j dA~_j`.
    """
    p = torch.tensor(weights, dtype=torch.float64)
    p = p / p.sum()
    root = p.sqrt()
    mirror = root.clone()
    mirror[0] += 1.0
    rotation = (torch.eye(len(p), dtype=torch.float64) - 2 * torch.outer(mirror, mirror) / (mirror @ mirror)) * root[:, None]
    rotation[:, 0] = p
    da = torch.einsum("kj,kri->jri", rotation.to(site.a.device), torch.stack([da for da, _ in changes]).double())
    db = torch.einsum("kj,kor->jor", rotation.to(site.b.device), torch.stack([db for _, db in changes]).double())
    a = torch.cat([site.a.double() + da[0], *da[1:]])
    b = torch.cat([site.b.double() + db[0], *db[1:]], dim=1)
    return LowRank(b, a)


def cross(site: LowRank, da: Tensor, db: Tensor) -> Tensor:
    """`B' dB (A + dA)` (r, I), float64: what one client's change adds beyond `B dA`, seen from the fixed factor B."""
    return (site.b.double().T @ db.double()) @ (site.a.double() + da.double())


def project(
    b: Tensor,  # (O, r), the fixed factor
    mean: Tensor,  # (r, I), M = sum_k p_k dA_k
    beyond: Tensor,  # (r, I), B'(D - B M), float64
    damping: float | None = None,
) -> Tensor:
    """The change DA (r, I) that best realises `D` on the fixed factor: `b @ DA ~ D = b @ mean + ...`; mean's dtype.

    damping None: the bounded rule, `DA = M + (B'B + lambda I)^-1 B'(D - B M)` with the smallest lambda for which the
    correction is no longer than M: scale-free, equal to the pseudo-inverse when B is healthy.
    damping 0: the pseudo-inverse `pinv(B) D` (B = 0 gives 0). damping d > 0: `(B'B + d |B'B|_2 I)^-1 B' D`.
    Error: below 1e-6 of the result up to cond(B) = 1e4 (Gram matrix in float64).
    Source: FedSRD's decompose step; the bounded and the damped rule are ours.
    """
    values, vectors = torch.linalg.eigh(b.double().T @ b.double())
    top = values[-1].clamp(min=0)
    alive = values > top * RANK_TOLERANCE**2
    values = torch.where(alive, values, torch.zeros_like(values))
    turned_mean = vectors.T @ mean.double()
    turned = torch.where(alive[:, None], vectors.T @ beyond, torch.zeros_like(beyond))
    if damping is None:
        shift = bounded_shift(values, turned, float(mean.double().norm()))
        out = turned_mean + turned * _inverse(values + shift)[:, None]
    else:
        out = (values[:, None] * turned_mean + turned) * _inverse(values + damping * top)[:, None]
    return (vectors @ out).to(mean.dtype)


def bounded_shift(values: Tensor, turned: Tensor, bound: float, steps: int = 60) -> float:
    """Smallest lambda >= 0 with `|(diag(values) + lambda)^-1 turned|_F <= bound`, by bisection in the logarithm."""
    squares = turned.square().sum(dim=1)

    def length(shift: float) -> float:
        return float((squares * _inverse(values + shift).square()).sum().sqrt())

    if length(0.0) <= bound:
        return 0.0
    high = float(squares.sum().sqrt()) / bound if bound > 0 else float("inf")
    if high == float("inf"):
        return high
    low = high * 1e-18
    for _ in range(steps):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if length(middle) > bound else (low, middle)
    return high


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / values.clamp(min=1e-300), torch.zeros_like(values))
