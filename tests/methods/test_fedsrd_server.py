"""FedSRD's and FedSRD-e's server against the dense formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.methods import dense
from thinwire.lowrank import LowRank
from thinwire.method import Context, Reread
from thinwire.methods import create

SHAPES = [(30, 4, 20), (20, 4, 30), (16, 8, 16), (64, 1, 48), (40, 16, 120)]
METHODS = ["fedsrd", "fedsrd-e"]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def healthy(shape: tuple[int, int, int]) -> LowRank:
    height, rank, width = shape
    return LowRank(noise(1, height, rank).float(), noise(2, rank, width).float(), 2.0)


def with_condition(shape: tuple[int, int, int], condition: float) -> LowRank:
    """A module whose B has singular values from 1 down to 1 / condition."""
    height, rank, width = shape
    left, right = torch.linalg.qr(noise(3, height, rank))[0], torch.linalg.qr(noise(4, rank, rank))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), rank, dtype=torch.float64)
    return LowRank(((left * values) @ right).float(), noise(5, rank, width).float(), 2.0)


def changes(module: LowRank, clients: int, size: float, dtype: torch.dtype = torch.float32) -> list[dense.Change]:
    """Each client's (dA, dB), `size` relative to the factors, as decoded from `dtype`."""
    out = []
    for k in range(clients):
        da = noise(100 + k, *module.a.shape) * size * module.a.double().square().mean().sqrt()
        db = noise(200 + k, *module.b.shape) * size * (module.b.double().square().mean().sqrt() or 1.0)
        out.append((da.to(dtype).float(), db.to(dtype).float()))
    return out


def weights(clients: int) -> list[float]:
    total = clients * (clients + 1) / 2
    return [(k + 1) / total for k in range(clients)]


def server(name: str, module: LowRank, parts: list[dense.Change], part: str, **fields: object) -> Tensor:
    """What the method makes of the uploads in a round that updates `part`."""
    method = create(name, {"first": part, **fields})
    shares = weights(len(parts))
    uploads = Reread(len(parts), lambda k: (shares[k], {"a": parts[k][0], "b": parts[k][1]}))
    update = method.rule(module, uploads, Context(0, 0))
    assert list(update) == [part]
    return update[part]


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm().clamp(min=1e-300))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("solve", ["pinv", "damped", "bounded"])
def test_against_the_dense_formulas(name, part, shape, dtype, solve):
    module = healthy(shape)
    parts = changes(module, 3, 0.1, dtype)
    want = dense.update(module, parts, weights(3), part, name == "fedsrd", solve)
    assert error(server(name, module, parts, part, solve=solve), want) < 1e-5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("clients", [1, 2, 5, 20])
@pytest.mark.parametrize("solve", ["pinv", "bounded"])
def test_any_number_of_clients(name, part, clients, solve):
    module = healthy((40, 6, 50))
    parts = changes(module, clients, 0.3)
    want = dense.update(module, parts, weights(clients), part, name == "fedsrd", solve)
    assert error(server(name, module, parts, part, solve=solve), want) < 1e-5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("clients", [1, 4, 20])
@pytest.mark.parametrize("solve", ["pinv", "bounded"])
def test_changes_of_a_millionth_keep_their_digits(name, part, clients, solve):
    """Forming D by a difference in float32 would cost 14 % here."""
    module = healthy((40, 6, 50))
    parts = changes(module, clients, 1e-6)
    want = dense.update(module, parts, weights(clients), part, name == "fedsrd", solve)
    assert error(server(name, module, parts, part, solve=solve), want) < 1e-4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("condition", [1e2, 1e4])
@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("solve", ["pinv", "damped", "bounded"])
def test_an_ill_conditioned_factor(name, condition, part, solve):
    module = with_condition((60, 8, 50), condition)
    parts = changes(module, 4, 0.01)
    want = dense.update(module, parts, weights(4), part, name == "fedsrd", solve)
    assert error(server(name, module, parts, part, solve=solve), want) < 1e-4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("solve", ["pinv", "damped", "bounded"])
@pytest.mark.parametrize("defect", ["a zero column", "equal columns", "rank one"])
def test_a_rank_deficient_factor(name, solve, defect):
    module = healthy((30, 4, 20))
    b = module.b.clone()
    if defect == "a zero column":
        b[:, 2] = 0
    elif defect == "equal columns":
        b[:, 3] = b[:, 0]
    else:
        b = b[:, :1] @ torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    module = LowRank(b, module.a, module.scale)
    parts = changes(module, 3, 0.1)
    got = server(name, module, parts, "a", solve=solve)
    assert error(got, dense.update(module, parts, weights(3), "a", name == "fedsrd", solve)) < 1e-4
    assert got.norm() < 100 * sum(da.norm() + db.norm() for da, db in parts)


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_factor(name):
    """B = 0: A learns nothing by the pseudo-inverse, the mean of dA by the bounded rule; B itself learns."""
    module = LowRank(torch.zeros(30, 4), healthy((30, 4, 20)).a, 2.0)
    parts = changes(module, 3, 0.1)
    mean = sum(p * da for p, (da, _) in zip(weights(3), parts, strict=True))
    assert not server(name, module, parts, "a", solve="pinv").any()
    assert not server(name, module, parts, "a", solve="damped").any()
    torch.testing.assert_close(server(name, module, parts, "a", solve="bounded"), mean)
    want = dense.update(module, parts, weights(3), "b", name == "fedsrd")
    assert error(server(name, module, parts, "b", solve="pinv"), want) < 1e-5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("solve", ["pinv", "damped", "bounded"])
def test_no_change_is_no_change(name, part, solve):
    module = healthy((12, 3, 9))
    parts = [(torch.zeros(3, 9), torch.zeros(12, 3))] * 3
    assert server(name, module, parts, part, solve=solve).abs().max() < 1e-20


def test_one_client_is_followed_as_far_as_the_fixed_factor_reaches():
    """B(A + DA) is the best that B's columns can do for the client's product, and then A's rows for what is left."""
    module = healthy((30, 4, 20))
    (change,) = parts = changes(module, 1, 0.05)
    target = (module.b + change[1]) @ (module.a + change[0])
    after = module.b @ (module.a + server("fedsrd-e", module, parts, "a", solve="pinv"))
    reach = torch.linalg.lstsq(module.b.double(), target.double()).solution
    torch.testing.assert_close(after.double(), module.b.double() @ reach, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_bounded_step_is_never_longer_than_twice_the_clients_mean(name):
    module = with_condition((60, 8, 50), 1e6)
    parts = changes(module, 4, 0.01)
    mean = sum(p * da for p, (da, _) in zip(weights(4), parts, strict=True))
    assert server(name, module, parts, "a", solve="bounded").norm() <= 2.0001 * mean.norm()
    assert server(name, module, parts, "a", solve="pinv").norm() > 10 * mean.norm(), "the published rule blows up here"


def test_a_step_by_hand():
    """2 x 2: D = B dA + dB A by hand, on each factor."""
    module = LowRank(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.eye(2))
    shift = (torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2, 2))
    lift = (torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    for name in METHODS:
        exact = {"rtol": 0, "atol": 1e-6}
        # D = B dA = [[0, 2], [0, 0]]; pinv(B) D = dA; D pinv(A) = D
        torch.testing.assert_close(server(name, module, [shift], "a", solve="pinv"), shift[0], **exact)
        torch.testing.assert_close(server(name, module, [shift], "b", solve="pinv"), 2 * shift[0], **exact)
        # D = dB A = [[0, 0], [1, 0]]; pinv(B) D = D, since B's second diagonal entry is 1
        torch.testing.assert_close(server(name, module, [lift], "a", solve="pinv"), lift[1], **exact)
        torch.testing.assert_close(server(name, module, [lift], "b", solve="pinv"), lift[1], **exact)


def test_a_truncation_by_hand():
    """Rank 1: products diag(3, 0) and [[0, 0], [0, 1]] with weights 1/3 and 2/3 have the mean diag(1, 2/3)."""
    module = LowRank(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, 0.0]]))
    first = (torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0], [-1.0]]))
    second = (torch.tensor([[-1.0, 1.0]]), torch.tensor([[-1.0], [0.0]]))
    # D_e = diag(1, 2/3) - [[1, 0], [1, 0]] = [[0, 0], [-1, 2/3]]; pinv(B) = [1/2, 1/2]
    got = server("fedsrd-e", module, [first, second], "a", solve="pinv")
    torch.testing.assert_close(got, torch.tensor([[-1 / 2, 1 / 3]]))
    # the best rank-1 mean is diag(1, 0), so D = [[0, 0], [-1, 0]]
    got = server("fedsrd", module, [first, second], "a", solve="pinv")
    torch.testing.assert_close(got, torch.tensor([[-1 / 2, 0.0]]), rtol=1e-6, atol=1e-6)
