"""A wanted change of the product, realised on one factor while the other stays fixed: pinv, damped, bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.lowrank.factors import RANK_TOLERANCE, gram

GRAM_LIMIT = 1e-4
"""Below this ratio of singular values the Gram matrix is too coarse, and QR and an SVD of R take its place."""


@dataclass(frozen=True)
class FixedFactor:
    """A factor that stays as it is, `b = U diag(s) V'`, float64, with all that a solve on it needs."""

    b: Tensor  # (..., O, r)
    s: Tensor  # (..., r), ascending; 0 for those below RANK_TOLERANCE of the largest
    v: Tensor  # (..., r, r)

    @classmethod
    def of(cls, b: Tensor) -> FixedFactor:
        """Error of s: 1e-16 cond(b)^2 relative while cond(b) <= 1e4, 1e-16 cond(b) beyond."""
        b = b.double()
        values, v = torch.linalg.eigh(gram(b, b))
        s = values.clamp(min=0).sqrt()
        if bool((s[..., 0] < s[..., -1] * GRAM_LIMIT).any()):
            _, s, vt = torch.linalg.svd(torch.linalg.qr(b, mode="r")[1])
            s, v = s.flip(-1), vt.mT.flip(-1)
        return cls(b, torch.where(s > s[..., -1:] * RANK_TOLERANCE, s, 0.0), v)

    def see(self, x: Tensor) -> Tensor:
        """`U' x` (..., r, n), float64, for x (..., O, n): its coordinates in the span of b; 0 along what s drops."""
        return self.turn(gram(self.b, x))

    def turn(self, x: Tensor) -> Tensor:
        """`U' x` from `b' x`."""
        return _inverse(self.s)[..., None] * (self.v.mT @ x)

    def solve(self, mean: Tensor, seen: Tensor, damping: float | None = None) -> Tensor:
        """The change DA (..., r, I) for which `b @ DA` is nearest D, given M (`mean`) and `U'(D - b M)` (`seen`).

        damping None: the bounded rule, `DA = M + (b'b + lambda I)^-1 b'(D - b M)` with the smallest lambda for which
        the correction is no longer than M: scale-free, equal to the pseudo-inverse when b is healthy.
        damping 0: the pseudo-inverse, `pinv(b) D` (b = 0 gives 0). damping d > 0: `(b'b + d |b'b|_2 I)^-1 b' D`.
        Computed and returned in the mean's dtype. Error: 1e-7 of the result in float32, whatever cond(b).
        Source: FedSRD's decompose step; the bounded and the damped rule are ours.
        Differs: the official float32 pinv drops singular values below 1.2e-7 max(O, r) of the largest, ours those below
        RANK_TOLERANCE.
        """
        square = self.s.square()
        if damping is None:
            lengths = seen.square().sum(dim=-1, dtype=torch.float64)
            bound = torch.linalg.vector_norm(mean, dim=(-2, -1), dtype=torch.float64)
            gain = self.s * _inverse(square, bounded_shift(square, square * lengths, bound))
            kept = mean
        else:
            inverse = _inverse(square, damping * square[..., -1:])
            gain, share = self.s * inverse, square * inverse
            kept = mean if bool((share == 1).all()) else ((self.v * share[..., None, :]) @ self.v.mT).to(mean) @ mean
        return kept + (self.v * gain[..., None, :]).to(mean) @ seen.to(mean)


def bounded_shift(
    values: Tensor,  # (..., r), eigenvalues of b'b
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
    alone = (squares.sqrt() / bound - values).nan_to_num(nan=0.0, posinf=torch.inf)
    shift = alone.amax(dim=-1, keepdim=True).clamp(min=0)
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


def _inverse(values: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """`1 / (values + shift)`, and 0 where the value is 0: such directions are not in the factor's span."""
    return torch.where(values > 0, 1 / (values + shift).clamp(min=1e-300), 0.0)
