"""The best rank-r approximation of a mean of products, for any number of clients: block Krylov iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.lowrank.factors import LowRank, inner
from thinwire.lowrank.few import Terms
from thinwire.lowrank.fixed import FixedFactor

OVERSAMPLING = 8
"""Columns beyond the rank in each block; more help little where the clients' differences are noise."""

TOLERANCE = 5e-7
"""Estimated error of W_r, as a fraction of the change's norm, at which one block with N in float32 will do."""

CLEAR = 0.1
"""`s_(r+1) / s_r` up to which it will do: where clients differ by more, float64 takes over."""

EXACT = 1e-9
"""The same error at which the larger basis ends, with N in float64."""

ROUNDING = 1e-14
"""Residual, as a fraction of W's largest singular value, below which there is nothing left to find."""

ZERO = 1e-12
"""Singular values below this fraction of W's largest count as zero."""

COLUMNS = 1024
"""Columns of the basis beyond which it is cut back to its best ones."""

CUTS = 16
"""Cuts of the basis after which it grows instead, until it spans the whole space."""


class ProductMean:
    """`W = (B + mean dB)(A + mean dA) + N` with N, what clients differ in, known by its products only.

    The first part is computed in float64, N streams in `dtype`.
    """

    def __init__(self, b: Tensor, a: Tensor, terms: Terms) -> None:
        self.terms, self.dtype = terms, torch.float32
        self.da, self.db = torch.zeros_like(a, dtype=torch.float64), torch.zeros_like(b)
        for p, da, db in terms:
            self.da.add_(da, alpha=p)
            self.db.add_(db, alpha=p)
        self.a, self.b = a.double() + self.da, b + self.db

    def forward(self, v: Tensor) -> Tensor:
        """`W v` (O, w), float64, for v (I, w): one pass over the clients."""
        total, own = v.new_zeros(self.db.shape[0], v.shape[1], dtype=self.dtype), v.to(self.dtype)
        for p, da, db in self.terms:
            total.addmm_(db.to(self.dtype), da.to(self.dtype) @ own, alpha=p)
        return self.b @ (self.a @ v) - self.db @ (self.da @ v) + total

    def spread(self, u: Tensor) -> Tensor:
        """`N' u` (I, w), float64, for u (O, w): one pass over the clients."""
        total, own = u.new_zeros(self.da.shape[1], u.shape[1], dtype=self.dtype), u.to(self.dtype)
        for p, da, db in self.terms:
            total.addmm_(da.to(self.dtype).mT, db.to(self.dtype).mT @ own, alpha=p)
        return total - self.da.mT @ (self.db.mT @ u)

    def backward(self, u: Tensor, spread: Tensor) -> Tensor:
        """`W' u` (I, w), where `spread` is `N' u`."""
        return self.a.mT @ (self.b.mT @ u) + spread


def best_of_many(fixed: FixedFactor, a: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """As `best_of_few`, for any number of clients, with any spectrum: memory of one and 5 passes as a rule.

    One pass finds the means, one applies W' to the column space of `B + mean dB`, which with fixed random vectors gives
    a block of r + 8; W, W' and W again make a basis of it and say how good it is. Where that is not enough, a larger
    basis is built with N in float64, two passes a block. Error: 1e-6 of the result, 1e-7 as a rule.
    """
    w, rank = ProductMean(fixed.b, a, terms), a.shape[0]
    change = LowRank(torch.cat([w.db, fixed.b], dim=1), torch.cat([a, w.da]))
    size = float(inner(change, change).clamp(min=0).sqrt())
    start = _start(w, min(rank + OVERSAMPLING, w.a.shape[1], w.b.shape[0]))
    basis = Basis.of(w, start)
    if basis.ratio(rank) > CLEAR or basis.error(rank) > TOLERANCE * size:
        w.dtype = torch.float64
        basis = _grown(w, Basis.of(w, start), rank, EXACT * size)
    return w.da.to(a), _seen(fixed, w, *basis.leading(rank))


def _start(w: ProductMean, width: int) -> Tensor:
    """Orthonormal (I, width): the span of `W' u`, u that of `B + mean dB`, and fixed pseudo-random directions."""
    u, _ = torch.linalg.qr(w.b)
    extra = torch.randn(width, w.a.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).mT
    return torch.linalg.qr(torch.cat([w.backward(u, w.spread(u)), extra.to(u.device)], dim=1)[:, :width])[0]


class Basis:
    """Orthonormal q (O, m) with `W'q` (I, m), and how well `q q' W` has the leading singular triples of W.

    Built in two passes over the clients. block: the columns of q that were added last.
    """

    def __init__(self, w: ProductMean, q: Tensor, spread: Tensor, block: Tensor) -> None:
        self.q, self.spread = torch.cat([q, block], dim=1), torch.cat([spread, w.spread(block)], dim=1)
        images, last = w.backward(self.q, self.spread), block.shape[1]
        _, values, turn = torch.linalg.svd(torch.linalg.qr(images, mode="r")[1])
        self.values, self.turn = torch.where(values > values[0] * ZERO, values, 0.0), turn.mT
        directions, share = torch.linalg.qr(images[:, -last:])
        self.next, rest = _outside(self.q, w.forward(directions))
        self.rest = rest @ share @ self.turn[-last:]

    @classmethod
    def of(cls, w: ProductMean, start: Tensor) -> Basis:
        """The basis of `W start`, start (I, m) orthonormal."""
        block, _ = torch.linalg.qr(w.forward(start))
        return cls(w, block[:, :0], start[:, :0], block)

    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        """The `count` best columns (O, count), and N' times them (I, count)."""
        return self.q @ self.turn[:, :count], self.spread @ self.turn[:, :count]

    def ratio(self, rank: int) -> float:
        """`s_(r+1) / s_r`, 0 where there is no s_(r+1)."""
        return float(self.values[rank] / self.values[rank - 1]) if bool((self.values[rank:] > 0).any()) else 0.0

    def error(self, rank: int) -> float:
        """Of W_r, Frobenius: the residual of its singular triples over `1 - (s_(r+1) / s_r)^2`; 0 if q is all there is.

        A residual of the size of rounding counts as none.
        """
        residual = float((self.rest[:, :rank] / self.values[:rank]).nan_to_num(0.0, 0.0, 0.0).norm())
        if residual <= ROUNDING * float(self.values[0]) or not self.next.shape[1]:
            return 0.0
        return residual / max(1 - self.ratio(rank) ** 2, ROUNDING)


def _grown(w: ProductMean, basis: Basis, rank: int, bound: float) -> Basis:
    """A basis whose error is below `bound`: as long as it is not, what its residual adds joins it.

    After K blocks at most, it holds all that K clients differ in. Beyond COLUMNS it is cut back to its best columns,
    CUTS times at most, and grows after that.
    Source: block Krylov iteration (Musco and Musco 2015) with thick restarts (Wu and Simon 2000), a start that is
    known, and factors that are read again.
    """
    cuts, width = 0, basis.q.shape[1]
    while basis.error(rank) > bound:
        held = basis.q, basis.spread
        if basis.q.shape[1] + width > COLUMNS and cuts < CUTS:
            held, cuts = basis.leading(2 * width), cuts + 1
        basis = Basis(w, *held, basis.next)
    return basis


def _outside(basis: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the basis (O, m) leaves of the images (O, w): orthonormal columns, as many as there is room for, and R."""
    images = images - basis @ (basis.mT @ images)
    block, rest = torch.linalg.qr(images - basis @ (basis.mT @ images))
    room = min(block.shape[1], basis.shape[0] - basis.shape[1])
    block, _ = torch.linalg.qr((block - basis @ (basis.mT @ block))[:, :room])
    return block, rest


def _seen(fixed: FixedFactor, w: ProductMean, q: Tensor, spread: Tensor) -> Tensor:
    """`U'(W_r - B (A + M))` (r, I), float64, for `W_r = q q' W`, `spread = N' q`, q orthonormal (O, r).

    As `(U' mean dB - (U - q q' U)'(b - q q' b)) (A + M) + U' q q' N`, b = B + mean dB: small terms are formed as such,
    and nothing of the size of W is subtracted.
    """
    seen, outside = fixed.see(q), w.b - q @ (q.mT @ w.b)
    return (fixed.see(w.db) - fixed.see(outside) + seen @ (q.mT @ outside)) @ w.a + seen @ spread.mT
