"""The best rank-r approximation of a mean of products, for any number of clients, by a subspace iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.lowrank.factors import LowRank, inner
from thinwire.lowrank.few import Terms
from thinwire.lowrank.fixed import FixedFactor

OVERSAMPLING = 8
"""Columns beyond the rank that the iteration carries; more help little where the clients' differences are noise."""

TOLERANCE = 1e-7
"""Estimated error of W_r, as a fraction of the change's norm, at which the iteration ends."""

SWEEPS = 6
"""Most pairs of passes over the clients."""


class ProductMean:
    """`W = (B + mean dB)(A + mean dA) + N` with N, what clients differ in, known by its products only.

    The first part is computed in float64; N is small against it, streams in float32, is never formed. b: float64.
    """

    def __init__(self, b: Tensor, a: Tensor, terms: Terms) -> None:
        self.terms = terms
        self.da, self.db = torch.zeros_like(a), torch.zeros_like(b)
        for p, da, db in terms:
            self.da.add_(da, alpha=p)
            self.db.add_(db, alpha=p)
        self.a, self.b = a.double() + self.da, b + self.db

    def spread(self, v: Tensor) -> Tensor:
        """`N v` (O, w), float64, for v (I, w): one pass over the clients."""
        v = v.float()
        total = v.new_zeros(self.db.shape[0], v.shape[1])
        for p, da, db in self.terms:
            total.addmm_(db, da @ v, alpha=p)
        return total.double() - self.db @ (self.da @ v).double()

    def spread_transposed(self, u: Tensor) -> Tensor:
        """`N' u` (I, w), float64, for u (O, w): one pass over the clients."""
        u = u.float()
        total = u.new_zeros(self.da.shape[1], u.shape[1])
        for p, da, db in self.terms:
            total.addmm_(da.mT, db.mT @ u, alpha=p)
        return total.double() - self.da.double().mT @ (self.db.mT @ u.double())


def best_of_many(fixed: FixedFactor, a: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """As `best_of_few`, for any number of clients: memory of one, 4 passes, in hard cases up to 2 + 2 * SWEEPS.

    One pass finds the means, one applies W' to the column space of `B + mean dB`. A block of r + 8 vectors starts
    there; a pair of passes applies W and then W', which contracts its error by `(s_(r+9) / s_r)^2` (s: the singular
    values of W), until `_error` is small. Error: 1e-7 of the result, and of the clients' differences where those are as
    large as the factors; without a gap after s_r, TOLERANCE may not be reached in SWEEPS.
    Source: Halko, Martinsson, Tropp 2011, section 4.5, with a start that is known and factors that are read again.
    """
    w, rank = ProductMean(fixed.b, a, terms), a.shape[0]
    change = LowRank(torch.cat([w.db, fixed.b], dim=1), torch.cat([a, w.da]))
    bound = TOLERANCE * float(inner(change, change).clamp(min=0).sqrt())
    v = _start(w, min(rank + OVERSAMPLING, w.a.shape[1], w.b.shape[0]))
    for _ in range(SWEEPS):
        q, _ = torch.linalg.qr(w.b @ (w.a @ v) + w.spread(v))
        spread = w.spread_transposed(q)
        after, core = torch.linalg.qr(w.a.mT @ (w.b.mT @ q) + spread)
        right, s, left = torch.linalg.svd(core)
        turn, best = left.mT[:, :rank], after @ right[:, :rank]
        if q.shape[0] == q.shape[1] or _error(v, best, s[-1]) <= bound:
            break
        v = after
    return w.da, _seen(fixed, w, q @ turn, spread @ turn)


def _start(w: ProductMean, width: int) -> Tensor:
    """Orthonormal (I, width): the span of `W' u`, u that of `B + mean dB`, and fixed pseudo-random directions."""
    u, _ = torch.linalg.qr(w.b)
    extra = torch.randn(width, w.a.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).mT
    first = w.a.mT @ (w.b.mT @ u) + w.spread_transposed(u)
    return torch.linalg.qr(torch.cat([first, extra.to(u.device)], dim=1)[:, :width])[0]


def _error(before: Tensor, best: Tensor, smallest: Tensor) -> float:
    """Estimated error of W_r after a pass through W and one through W', Frobenius.

    What the right vectors `best` (I, r) have outside the block the pass began with, times the block's last singular
    value: W maps that part to at most `s_(r+9)` of its length outside the block's image.
    """
    return float(smallest * (best - before @ (before.mT @ best)).norm())


def _seen(fixed: FixedFactor, w: ProductMean, q: Tensor, spread: Tensor) -> Tensor:
    """`U'(W_r - B (A + M))` (r, I), float64, for `W_r = q q' W`, `spread = N' q`, q orthonormal (O, r).

    As `(U' mean dB - (U - q q' U)'(b - q q' b)) (A + M) + U' q q' N`, b = B + mean dB: small terms are formed as such,
    and nothing of the size of W is subtracted.
    """
    seen, outside = fixed.see(q), w.b - q @ (q.mT @ w.b)
    return (fixed.see(w.db) - fixed.see(outside) + seen @ (q.mT @ outside)) @ w.a + seen @ spread.mT
