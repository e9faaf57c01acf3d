"""Low-rank algebra against the same formulas on dense float64 matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire import lowrank
from thinwire.lowrank import LowRank
from thinwire.lowrank.few import differences


def pair(rows: int, columns: int, rank: int, seed: int, scale: float = 1.0, batch: tuple[int, ...] = ()) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(*batch, rows, rank, generator=g), torch.randn(*batch, rank, columns, generator=g)
    return LowRank(b, a, scale)


def dense(x: LowRank) -> Tensor:
    return x.scale * x.b.double() @ x.a.double()


def close(found: Tensor, exact: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((found.double() - exact).norm() <= tolerance * exact.norm())


def distance(x: LowRank, y: LowRank) -> Tensor:
    """The norm of the difference of two products."""
    return lowrank.norm(lowrank.stack([x.double(), y.double()], [1.0, -1.0]))


def project(b: Tensor, mean: Tensor, rest: LowRank, damping: float | None = None) -> Tensor:
    """The change DA for which `b @ DA` is nearest `b @ mean + rest`."""
    fixed = lowrank.FixedFactor.of(b)
    return fixed.solve(mean, rest.scale * fixed.see(rest.b) @ rest.a.double(), damping)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(0, 99), st.floats(0.01, 3))


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 6))
def test_norm_inner_distance_stack(shape: tuple[int, int, int, int, float], other: int) -> None:
    rows, columns, rank, seed, scale = shape
    x, y = pair(rows, columns, rank, seed, scale), pair(rows, columns, other, seed + 1, 0.5)
    size = float(dense(x).norm() * dense(y).norm())
    assert close(lowrank.norm(x), dense(x).norm(), 1e-12)
    assert abs(lowrank.inner(x, y) - (dense(x) * dense(y)).sum()) <= 1e-12 * size * rank * other + 1e-30
    assert close(distance(x, y), (dense(x) - dense(y)).norm(), 1e-12)
    assert close(dense(lowrank.stack([x, y], [0.3, 0.7])), 0.3 * dense(x) + 0.7 * dense(y), 1e-5)


def test_a_distance_of_a_millionth_keeps_its_digits() -> None:
    x = pair(50, 60, 4, 0)
    y = LowRank(x.b.double(), x.a.double() * (1 + 1e-6))
    assert close(distance(x, y), 1e-6 * dense(x).norm(), 1e-8)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5, 30), (30, 5)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncate_is_the_best(shape: tuple[int, int], rank: int) -> None:
    x = pair(*shape, 5, 1, 2.0)
    u, s, vt = torch.linalg.svd(dense(x), full_matrices=False)
    assert close(dense(lowrank.truncate(x, rank)), (u[:, :rank] * s[:rank]) @ vt[:rank])
    best, rest = lowrank.split(x, rank)
    assert close(dense(best) + dense(rest), dense(x), 1e-12)


@pytest.mark.parametrize("rank", [0, 6])
def test_truncate_refuses(rank: int) -> None:
    with pytest.raises(ValueError, match=r"allowed is 1\.\.5"):
        lowrank.truncate(pair(9, 9, 5, 0), rank)


def test_project_on_a_factor() -> None:
    x, b, mean = pair(30, 20, 4, 0), pair(30, 20, 3, 1).b, pair(30, 20, 3, 2).a
    d = b.double() @ mean.double() + dense(x)
    assert close(project(b, mean, x, 0.0), torch.linalg.pinv(b.double()) @ d)


def test_means_and_differences_are_the_mean_product() -> None:
    module, p = pair(30, 20, 3, 0), [0.2, 0.3, 0.5]
    changes = [(pair(30, 20, 3, k).a.double(), pair(30, 20, 3, k + 9).b.double()) for k in (1, 2, 3)]
    exact = sum(w * (module.b + db) @ (module.a + da) for w, (da, db) in zip(p, changes, strict=True))
    (mean_a, mean_b), rest = differences((w, da, db) for w, (da, db) in zip(p, changes, strict=True))
    assert close((module.b + mean_b) @ (module.a + mean_a) + sum(share * db @ da for share, da, db in rest), exact)


@pytest.mark.parametrize("damping", [None, 0.0, 0.1])
def test_sites_of_equal_shape_at_once(damping: float | None) -> None:
    many = pair(30, 20, 3, 0, batch=(4,))
    ones = [LowRank(b, a) for b, a in zip(many.b, many.a, strict=True)]
    mean, rest = pair(30, 20, 3, 1, batch=(4,)).a * 1e-2, pair(30, 20, 2, 2, batch=(4,))
    together = project(many.b, mean, rest, damping)
    each = zip(ones, mean, rest.b, rest.a, strict=True)
    apart = [project(one.b, m, LowRank(b, a), damping) for one, m, b, a in each]
    assert close(together, torch.stack(apart).double(), 1e-5)
    for function in (lowrank.norm, lambda x: lowrank.inner(x, x), lambda x: dense(lowrank.truncate(x, 2))):
        assert close(function(many), torch.stack([function(one) for one in ones]), 1e-6)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_weights_that_have_no_mean(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        lowrank.unit_weights(weights)
