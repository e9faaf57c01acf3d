"""The best rank-r approximation of a mean of products, as seen from a fixed factor: exact, for few clients."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from thinwire.lowrank.factors import BLOCK
from thinwire.lowrank.fixed import FixedFactor

Terms = Iterable[tuple[float, Tensor, Tensor]]
"""(p_k, dA_k (r, I), dB_k (O, r)) by client; the weights sum to 1; may be gone through more than once."""


def differences(terms: Terms) -> tuple[tuple[Tensor, Tensor], list[tuple[float, Tensor, Tensor]]]:
    """Means (dA, dB), and K - 1 triples whose `sum_j share_j db_j da_j` is `sum_k p_k dB_k dA_k - mean dB mean dA`.

    Each client is compared with the mean of those before him. Source: Welford 1962, for products of matrices.
    """
    rest: list[tuple[float, Tensor, Tensor]] = []
    total, means = 0.0, None
    for p, da, db in terms:
        if means is None:
            total, means = p, (da, db)
            continue
        da, db = da - means[0], db - means[1]
        rest.append((total * p / (total + p), da, db))
        total += p
        means = torch.add(means[0], da, alpha=p / total), torch.add(means[1], db, alpha=p / total)
    assert means is not None, "at least one client"
    return means, rest


def best_of_few(fixed: FixedFactor, a: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """M (r, I), the mean dA, and `U'(W_r - B (A + M))` (r, I) for the best rank-r W_r of the mean product W.

    `fixed` is B, in whose span U the result is wanted. W is `L diag(w) R'` with L = [B + mean dB, db_j], R likewise, of
    inner rank K r. One float64 Gram matrix a side and one SVD of size K r; what W_r leaves out is formed as such, never
    as a difference of two products. Cost: O((O + I) (K r)^2 + (K r)^3). Error: 1e-7 of the result.
    """
    (mean_a, mean_b), rest = differences((p, da, db.double()) for p, da, db in terms)
    rank = a.shape[0]
    shares = torch.tensor([1.0, *(share for share, _, _ in rest)], dtype=torch.float64, device=a.device)
    shares = shares.repeat_interleave(rank)
    roots = shares.sqrt()
    parts = block_gram([(fixed.b,), (mean_b,), *((db,) for _, _, db in rest)])
    right = [(a.mT, mean_a.mT), *((da.mT,) for _, da, _ in rest)]
    seen = fixed.turn(parts[:rank])
    factor, basis = root_of_gram(_joined(_joined(parts, rank).mT, rank) * torch.outer(roots, roots))
    other, _ = root_of_gram(block_gram(right) * torch.outer(roots, roots))
    top = torch.linalg.svd(factor.mT @ other)[0][:, :rank]
    left, right_over = (_joined(seen, rank) * roots) @ basis, factor.mT
    left, right_over = left - (left @ top) @ top.mT, right_over - top @ (top.mT @ right_over)
    return mean_a, combine(seen[:, rank:] * shares - (left @ right_over) * roots, right)


def _joined(x: Tensor, rank: int) -> Tensor:
    """The columns of x (m, n) with the first `rank` added to the next, (m, n - rank): B and its mean change as one."""
    return torch.cat([x[:, :rank] + x[:, rank : 2 * rank], x[:, 2 * rank :]], dim=1)


def root_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """F (R, k) with `F F' = gram`, and Y (R, k) with `F' Y = I`: L Y is orthonormal if gram is `L' L`.

    Scaled to a unit diagonal first, so that small columns keep their digits; directions below 1e-14 do not count.
    """
    scale = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    values, vectors = torch.linalg.eigh(gram * torch.outer(inverse, inverse))
    kept = values > 1e-14 * values[-1]
    values, vectors = values[kept].sqrt(), vectors[:, kept]
    return scale[:, None] * vectors * values, inverse[:, None] * vectors / values


def block_gram(blocks: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """`L' L` in float64 for `L = [sum(blocks[0]), sum(blocks[1]), ...]`, each (N, r); half of it is computed."""
    rank, count = blocks[0][0].shape[1], len(blocks)
    total = blocks[0][0].new_zeros((rank * count, rank * count), dtype=torch.float64)
    for _, rows in _row_blocks(blocks):
        for i in range(count):
            at = slice(i * rank, (i + 1) * rank)
            total[at, i * rank :].addmm_(rows[:, at].mT, rows[:, i * rank :])
    upper = total.triu()
    return upper + upper.mT - torch.diag(total.diagonal())


def combine(coefficients: Tensor, blocks: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """`coefficients @ L'` (m, N) with L as in `block_gram`, in the dtype of the blocks."""
    parts = coefficients.to(blocks[0][0].dtype).split(blocks[0][0].shape[1], dim=1)
    products = ((part, tensor.mT) for part, block in zip(parts, blocks, strict=True) for tensor in block)
    return functools.reduce(lambda total, pair: total.addmm_(*pair), products, torch.mm(*next(products)))


def _row_blocks(blocks: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[slice, Tensor]]:
    """L block of rows by block of rows, float64, in a buffer that is used again."""
    length, rank = blocks[0][0].shape
    buffer = blocks[0][0].new_empty((min(BLOCK, length), rank * len(blocks)), dtype=torch.float64)
    for start in range(0, length, BLOCK):
        where = slice(start, min(start + BLOCK, length))
        rows = buffer[: where.stop - start]
        for i, (first, *others) in enumerate(blocks):
            block = rows[:, i * rank : (i + 1) * rank]
            block.copy_(first[where])
            for other in others:
                block.add_(other[where])
        yield where, rows
