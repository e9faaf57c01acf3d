"""FedSRD's and FedSRD-e's aggregation against the dense formulas in float64, where numbers are hard."""

import pytest
import torch
from torch import Tensor

from tests.lowrank import oracles
from tests.lowrank.oracles import Change, make, relative
from thinwire.lowrank import LowRank, best_of_few, best_of_many
from thinwire.method import Context, Reread
from thinwire.methods.fedsrd import FedSRD, FedSRDe
from thinwire.presets import OFFICIAL

TRUNCATED = {"fedsrd": FedSRD, "fedsrd-e": FedSRDe}


def run(name: str, site: LowRank, changes: list[Change], p: list[float], round: int, **fields: object) -> Tensor:
    method = TRUNCATED[name](**{**OFFICIAL, **fields})
    uploads = Reread(len(p), lambda k: (p[k], {"a": changes[k][0], "b": changes[k][1]}))
    return method.rule(site, uploads, Context(round, 0))["ab"[round % 2]]


def exact(name: str, site: LowRank, changes: list[Change], p: list[float], round: int) -> Tensor:
    d = oracles.wanted(site, changes, p, name == "fedsrd")
    return oracles.pinv(site.b) @ d if round % 2 == 0 else d @ oracles.pinv(site.a)


def error(name: str, site: LowRank, changes: list[Change], p: list[float]) -> float:
    """The larger of DA's and DB's relative errors."""
    return max(relative(run(name, site, changes, p, r), exact(name, site, changes, p, r)) for r in (0, 1))


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_ill_conditioned(name: str, clients: int, condition: float) -> None:
    assert error(name, *make(clients=clients, condition=condition)) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [4, 16])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("change", [1e-6, 1e-4, 0.3])
def test_tiny_and_large_changes(name: str, clients: int, condition: float, change: float) -> None:
    assert error(name, *make(clients=clients, condition=condition, change=change)) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
def test_a_change_along_the_weakest_directions(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients, condition=1e4)
    turn = torch.randn(site.rank, site.rank, generator=torch.Generator().manual_seed(5))
    aligned = [(da, 1e-2 * site.b @ turn + 0.01 * db) for da, db in changes]
    assert error(name, site, aligned, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_factors_of_very_different_scale(name: str, clients: int, scale: float) -> None:
    site, changes, p = make(clients=clients, condition=100.0)
    site = LowRank(site.b * scale, site.a / scale)
    assert error(name, site, [(da / scale, db * scale) for da, db in changes], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
def test_clients_of_very_different_scale(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients)
    assert error(name, site, [(da * 10.0**-k, db * 10.0**-k) for k, (da, db) in enumerate(changes)], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
def test_rank_deficient(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients)
    b = site.b.clone()
    b[:, 2] = 0
    b[:, 5] = b[:, 6]
    assert error(name, LowRank(b, site.a), changes, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [1, 4, 12])
def test_first_round(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients)
    site = LowRank(torch.zeros_like(site.b), site.a)
    assert bool((run(name, site, changes, p, 0) == 0).all()), "pinv(0) = 0"
    assert relative(run(name, site, changes, p, 1), exact(name, site, changes, p, 1)) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [1, 3, 12])
def test_identical_clients_are_one(name: str, clients: int) -> None:
    site, changes, _ = make(clients=1, condition=1e3)
    p = [1 / clients] * clients
    assert error(name, site, changes * clients, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [4, 12])
def test_bfloat16_uploads(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients, condition=1e3)
    assert error(name, site, [(da.bfloat16().float(), db.bfloat16().float()) for da, db in changes], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [4, 12])
def test_no_change_is_no_change(name: str, clients: int) -> None:
    site, changes, p = make(clients=clients)
    nothing = [(torch.zeros_like(da), torch.zeros_like(db)) for da, db in changes]
    for round in (0, 1):
        assert run(name, site, nothing, p, round).abs().max() < 1e-12


@pytest.mark.parametrize("clients", [12, 40])
@pytest.mark.parametrize("shape", [(40, 150), (150, 40), (30, 30)])
def test_more_columns_than_the_product_has(clients: int, shape: tuple[int, int]) -> None:
    assert error("fedsrd", *make(*shape, clients=clients, change=0.3)) < 1e-6


def test_truncation_without_a_gap() -> None:
    """Clients that share nothing, and changes as large as the factors: the slowest case for the iteration."""
    site, changes, p = make(300, 300, 8, clients=24, change=1.0, common=0.0)
    assert error("fedsrd", site, changes, p) < 1e-4


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("solve", ["damped", "bounded"])
@pytest.mark.parametrize("condition", [10.0, 1e4])
@pytest.mark.parametrize("clients", [3, 12])
def test_damped_and_bounded(name: str, solve: str, condition: float, clients: int) -> None:
    site, changes, p = make(clients=clients, condition=condition)
    found = run(name, site, changes, p, 0, solve=solve, damping=0.05)
    d = oracles.wanted(site, changes, p, name == "fedsrd")
    mean = sum(w * da.double() for w, (da, _) in zip(p, changes, strict=True))
    wanted = oracles.damped(site.b, d, 0.05) if solve == "damped" else oracles.bounded(site.b, d, mean)
    assert relative(found, wanted) < 1e-6
    if solve == "bounded":
        assert (found.double() - mean).norm() <= mean.norm() * (1 + 1e-6)


def test_both_algorithms_agree_and_leave_inputs_alone() -> None:
    from thinwire.lowrank import Fixed

    site, changes, p = make(clients=4)
    terms = [(w, da, db) for w, (da, db) in zip(p, changes, strict=True)]
    before = [tensor.clone() for term in terms for tensor in term[1:]] + [site.a.clone(), site.b.clone()]
    few, many = (function(Fixed.of(site.b), site.a, terms) for function in (best_of_few, best_of_many))
    for one, other in zip(few, many, strict=True):
        assert relative(one, other.double()) < 1e-6
    after = [tensor for term in terms for tensor in term[1:]] + [site.a, site.b]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
