"""A wanted change of the product, realised on one factor while the other stays fixed: pinv, damped, bounded."""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.lowrank.factors import RANK_TOLERANCE, LowRank, gram

GRAM_LIMIT = 1e-4
"""Below this ratio of singular values the Gram matrix is too coarse, and QR and an SVD of R take its place."""


def cross(site: LowRank, da: Tensor, db: Tensor) -> Tensor:
    """`B' dB (A + dA)` (r, I), float64: what one client's change adds beyond `B dA`, seen from the fixed factor B."""
    return gram(site.b, db) @ (site.a + da).double()


def spectrum(b: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., r), ascending, and eigenvectors (..., r, r) of `B'B`, float64; 0 for those that do not count.

    Error: 1e-16 cond(B)^2 relative while cond(B) <= 1e4, 1e-16 cond(B) beyond (then QR and an SVD of R are used).
    """
    values, vectors = torch.linalg.eigh(gram(b, b))
    top = values[..., -1:].clamp(min=0)
    if bool((values[..., :1] < top * GRAM_LIMIT**2).any()):
        _, s, vt = torch.linalg.svd(torch.linalg.qr(b.double(), mode="r")[1])
        values, vectors = s.square().flip(-1), vt.mT.flip(-1)
        top = values[..., -1:]
    return torch.where(values > top * RANK_TOLERANCE**2, values, 0.0), vectors


def project(
    b: Tensor,  # (..., O, r), the fixed factor
    mean: Tensor,  # (..., r, I), M = sum_k p_k dA_k
    beyond: Tensor,  # (..., r, I), B'(D - B M), float64
    damping: float | None = None,
) -> Tensor:
    """The change DA (..., r, I) that best realises `D` on the fixed factor, so that `b @ DA ~ D`; mean's dtype.

    damping None: the bounded rule, `DA = M + (B'B + lambda I)^-1 B'(D - B M)` with the smallest lambda for which the
    correction is no longer than M: scale-free, equal to the pseudo-inverse when B is healthy.
    damping 0: the pseudo-inverse `pinv(B) D` (B = 0 gives 0). damping d > 0: `(B'B + d |B'B|_2 I)^-1 B' D`.
    Error: below 1e-6 of the result up to cond(B) = 1e4, given `beyond` in float64.
    Source: FedSRD's decompose step; the bounded and the damped rule are ours.
    Differs: the official float32 pinv drops singular values below 1.2e-7 max(O, r) of the largest, ours those below
    RANK_TOLERANCE.
    """
    values, vectors = spectrum(b)
    if damping is None:
        turned = vectors.mT @ beyond
        bound = torch.linalg.matrix_norm(mean.double())
        shift = bounded_shift(values, turned.square().sum(dim=-1), bound)
        return (mean.double() + vectors @ (_inverse(values, shift)[..., None] * turned)).to(mean.dtype)
    inverse = _inverse(values, damping * values[..., -1:])
    kept = (vectors * (values * inverse)[..., None, :]) @ vectors.mT
    solved = (vectors * inverse[..., None, :]) @ vectors.mT
    return (kept @ mean.double() + solved @ beyond).to(mean.dtype)


def bounded_shift(
    values: Tensor,  # (..., r), eigenvalues of B'B
    squares: Tensor,  # (..., r), squared lengths of the right-hand side along the eigenvectors
    bound: Tensor,  # (...)
    steps: int = 50,
) -> Tensor:
    """Smallest lambda >= 0 with `|(diag(values) + lambda)^-1 turned|_F <= bound`, (..., 1); infinity if bound is 0.

    Newton on the secular equation from below: each step stays below the root and converges quadratically.
    Source: the trust-region subproblem, More and Sorensen 1983.
    """
    bound = bound[..., None]
    squares = torch.where(values > 0, squares, 0.0)
    shift = (squares.sqrt() / bound - values).amax(dim=-1, keepdim=True).nan_to_num(nan=0.0).clamp(min=0)
    for _ in range(steps):
        inverse = _inverse(values, shift)
        square = squares * inverse.square()
        length = square.sum(dim=-1, keepdim=True).sqrt()
        excess = torch.where(bound > 0, (length - bound) / bound, 0.0)
        if not bool((excess > 1e-12).any()):
            break
        slope = (square * inverse).sum(dim=-1, keepdim=True)
        shift = shift + torch.where(excess > 1e-12, length.square() / slope * excess, 0.0)
    return shift


def _inverse(values: Tensor, shift: Tensor) -> Tensor:
    """`1 / (values + shift)`, and 0 where the value is 0: such directions are not in the factor's span."""
    return torch.where(values > 0, 1 / (values + shift).clamp(min=1e-300), 0.0)
