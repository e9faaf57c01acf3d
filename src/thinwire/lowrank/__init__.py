"""Low-rank algebra on factors: stack, truncate, solve on a fixed factor. No (O, I) matrix is ever formed.

Shapes: b (..., O, r), a (..., r, I), product `scale * b @ a` (..., O, I); leading dimensions: pairs of equal shape.
Sums over rows and every r-sized matrix are float64, results have the input's dtype; each function states its error.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from thinwire.lowrank.factors import (
    RANK_TOLERANCE,
    LowRank,
    gram,
    inner,
    norm,
    principal,
    split,
    stack,
    truncate,
    unit_weights,
)
from thinwire.lowrank.few import best_of_few
from thinwire.lowrank.fixed import FixedFactor, bounded_shift
from thinwire.lowrank.many import best_of_many

__all__ = [
    "RANK_TOLERANCE",
    "FixedFactor",
    "LowRank",
    "best_of_few",
    "best_of_many",
    "best_of_mean",
    "bounded_shift",
    "gram",
    "inner",
    "norm",
    "principal",
    "split",
    "stack",
    "truncate",
    "unit_weights",
]

FEW = 4
"""Up to this many clients `best_of_few` is the faster; its cost grows with their square, its memory with them."""


def best_of_mean(
    fixed: FixedFactor, a: Tensor, terms: Collection[tuple[float, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """M and `U'(W_r - B (A + M))`, what `fixed.solve` asks for; W_r: the best rank-r `sum_k p_k (B + dB_k)(A + dA_k)`.

    fixed: B = U diag(s) V'. terms: (p_k, dA_k, dB_k), weights sum to 1. See `best_of_few` and `best_of_many`.
    """
    return best_of_few(fixed, a, terms) if len(terms) <= FEW else best_of_many(fixed, a, terms)
