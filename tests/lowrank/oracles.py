"""The dense formulas of methods.md in float64, and the cases that they are compared on."""

import torch
from torch import Tensor

from thinwire.lowrank import LowRank, unit_weights

Change = tuple[Tensor, Tensor]


def mean_product(module: LowRank, changes: list[Change], p: list[float]) -> Tensor:
    a, b = module.a.double(), module.b.double()
    return sum(w * (b + db.double()) @ (a + da.double()) for w, (da, db) in zip(p, changes, strict=True))


def mean_change(module: LowRank, changes: list[Change], p: list[float]) -> Tensor:
    """`mean_product - B A`, expanded so that float64 holds even a relative change of 1e-6 to the last float32 digit."""
    a, b = module.a.double(), module.b.double()
    pairs = zip(p, changes, strict=True)
    return sum(w * (b @ da.double() + db.double() @ (a + da.double())) for w, (da, db) in pairs)


def best(whole: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(whole, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def wanted(module: LowRank, changes: list[Change], p: list[float], truncated: bool) -> Tensor:
    """D: what the product is to change by."""
    if not truncated:
        return mean_change(module, changes, p)
    return best(mean_product(module, changes, p), module.rank) - module.b.double() @ module.a.double()


def pinv(b: Tensor) -> Tensor:
    return torch.linalg.pinv(b.double(), rtol=1e-6)


def damped(b: Tensor, d: Tensor, damping: float) -> Tensor:
    square = b.double().T @ b.double()
    shift = damping * torch.linalg.matrix_norm(square, 2)
    return torch.linalg.pinv(square + shift * torch.eye(len(square)).double(), hermitian=True) @ b.double().T @ d


def bounded(b: Tensor, d: Tensor, mean: Tensor) -> Tensor:
    """`M + (B'B + lambda I)^-1 B'(D - B M)`, the smallest lambda with a correction no longer than M, by bisection."""
    b, mean = b.double(), mean.double()
    u, s, vt = torch.linalg.svd(b, full_matrices=False)
    s = torch.where(s > 1e-6 * s[0], s, 0)
    right = u.T @ (d - b @ mean)

    def correction(shift: float) -> Tensor:
        return vt.T @ (torch.where(s > 0, s / (s.square() + shift).clamp(min=1e-300), 0.0)[:, None] * right)

    if correction(0.0).norm() <= mean.norm():
        return mean + correction(0.0)
    low, high = 1e-30, 1e30
    for _ in range(300):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if correction(middle).norm() > mean.norm() else (low, middle)
    return mean + correction(high)


def relative(found: Tensor, exact: Tensor) -> float:
    """Frobenius error relative to the exact result, or absolute where that is zero."""
    size = float(exact.norm())
    return float((found.double() - exact).norm()) / (size or 1.0)


def make(
    rows: int = 120,
    columns: int = 150,
    rank: int = 8,
    clients: int = 4,
    condition: float = 10.0,
    change: float = 1e-2,
    common: float = 0.5,
    seed: int = 0,
) -> tuple[LowRank, list[Change], list[float]]:
    """A module whose B has singular values from 1 to 1 / condition, and changes of that relative size."""
    g = torch.Generator().manual_seed(seed)
    a = (torch.rand(rank, columns, generator=g) * 2 - 1) / columns**0.5
    left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=g))
    right, _ = torch.linalg.qr(torch.randn(rank, rank, generator=g))
    b = left * condition ** -torch.linspace(0, 1, rank) @ right
    shared = torch.randn(rank, columns, generator=g), torch.randn(rows, rank, generator=g)
    sizes = change * a.norm() / a.numel() ** 0.5, change * b.norm() / b.numel() ** 0.5

    def one(i: int) -> Tensor:
        return sizes[i] * (common * shared[i] + torch.randn(shared[i].shape, generator=g))

    changes = [(one(0), one(1)) for _ in range(clients)]
    return LowRank(b, a), changes, unit_weights([1.0 + k % 3 for k in range(clients)])


def sparse_rescaled(
    rows: int, columns: int, rank: int, clients: int, density: float, grow_a: float, grow_b: float, seed: int = 0
) -> tuple[LowRank, list[Change], list[float]]:
    """Clients that share nothing: each change has few entries, and grow_a, grow_b times the length of its factor."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(rank, columns, generator=g) * 2 - 1) / columns**0.5, torch.randn(rows, rank, generator=g)

    def one(factor: Tensor, length: float) -> Tensor:
        kept = torch.randn(factor.shape, generator=g) * (torch.rand(factor.shape, generator=g) < density)
        return kept * (length * factor.norm() / kept.norm().clamp(min=1e-30))

    changes = [(one(a, grow_a), one(b, grow_b)) for _ in range(clients)]
    return LowRank(b, a), changes, unit_weights([1.0 + k % 3 for k in range(clients)])
