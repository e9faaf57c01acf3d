"""FedSRD's and FedSRD-e's aggregation against the dense formulas in float64, where numbers are hard."""

import pytest
import torch
from hypothesis import assume, given, settings, target
from hypothesis import strategies as st
from torch import Tensor

from tests.lowrank import oracles
from tests.lowrank.oracles import Change, make, relative, sparse_rescaled
from thinwire.lowrank import LowRank, best_of_few, best_of_many, many
from thinwire.method import Context, Reread
from thinwire.methods.fedsrd import FedSRD, FedSRDe
from thinwire.presets import OFFICIAL

TRUNCATED = {"fedsrd": FedSRD, "fedsrd-e": FedSRDe}


def run(name: str, module: LowRank, changes: list[Change], p: list[float], round: int, **fields: object) -> Tensor:
    method = TRUNCATED[name](**{**OFFICIAL, **fields})
    uploads = Reread(len(p), lambda k: (p[k], {"a": changes[k][0], "b": changes[k][1]}))
    return method.rule(module, uploads, Context(round, 0))["ab"[round % 2]]


def exact(name: str, module: LowRank, changes: list[Change], p: list[float], round: int) -> Tensor:
    d = oracles.wanted(module, changes, p, name == "fedsrd")
    return oracles.pinv(module.b) @ d if round % 2 == 0 else d @ oracles.pinv(module.a)


def error(name: str, module: LowRank, changes: list[Change], p: list[float]) -> float:
    """The larger of DA's and DB's relative errors."""
    return max(relative(run(name, module, changes, p, r), exact(name, module, changes, p, r)) for r in (0, 1))


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
    module, changes, p = make(clients=clients, condition=1e4)
    turn = torch.randn(module.rank, module.rank, generator=torch.Generator().manual_seed(5))
    aligned = [(da, 1e-2 * module.b @ turn + 0.01 * db) for da, db in changes]
    assert error(name, module, aligned, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_factors_of_very_different_scale(name: str, clients: int, scale: float) -> None:
    module, changes, p = make(clients=clients, condition=100.0)
    module = LowRank(module.b * scale, module.a / scale)
    assert error(name, module, [(da / scale, db * scale) for da, db in changes], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
def test_clients_of_very_different_scale(name: str, clients: int) -> None:
    module, changes, p = make(clients=clients)
    assert error(name, module, [(da * 10.0**-k, db * 10.0**-k) for k, (da, db) in enumerate(changes)], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [3, 12])
def test_rank_deficient(name: str, clients: int) -> None:
    module, changes, p = make(clients=clients)
    b = module.b.clone()
    b[:, 2] = 0
    b[:, 5] = b[:, 6]
    assert error(name, LowRank(b, module.a), changes, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [1, 4, 12])
def test_first_round(name: str, clients: int) -> None:
    module, changes, p = make(clients=clients)
    module = LowRank(torch.zeros_like(module.b), module.a)
    assert bool((run(name, module, changes, p, 0) == 0).all()), "pinv(0) = 0"
    assert relative(run(name, module, changes, p, 1), exact(name, module, changes, p, 1)) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [1, 3, 12])
def test_identical_clients_are_one(name: str, clients: int) -> None:
    module, changes, _ = make(clients=1, condition=1e3)
    p = [1 / clients] * clients
    assert error(name, module, changes * clients, p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [4, 12])
def test_bfloat16_uploads(name: str, clients: int) -> None:
    module, changes, p = make(clients=clients, condition=1e3)
    assert error(name, module, [(da.bfloat16().float(), db.bfloat16().float()) for da, db in changes], p) < 1e-6


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("clients", [4, 12])
def test_no_change_is_no_change(name: str, clients: int) -> None:
    module, changes, p = make(clients=clients)
    nothing = [(torch.zeros_like(da), torch.zeros_like(db)) for da, db in changes]
    for round in (0, 1):
        assert run(name, module, nothing, p, round).abs().max() < 1e-12


@pytest.mark.parametrize("clients", [12, 40])
@pytest.mark.parametrize("shape", [(40, 150), (150, 40), (30, 30)])
def test_more_columns_than_the_product_has(clients: int, shape: tuple[int, int]) -> None:
    assert error("fedsrd", *make(*shape, clients=clients, change=0.3)) < 1e-6


def test_truncation_without_a_gap() -> None:
    """Clients that share nothing, and changes as large as the factors."""
    module, changes, p = make(300, 300, 8, clients=24, change=1.0, common=0.0)
    assert error("fedsrd", module, changes, p) < 1e-6


@pytest.mark.parametrize(("shape", "clients"), [((512, 512, 64), 5), ((256, 256, 16), 5), ((256, 256, 16), 24)])
def test_sparse_rescaled_uploads(shape: tuple[int, int, int], clients: int) -> None:
    assert error("fedsrd", *sparse_rescaled(*shape, clients, 0.04, 3.0, 10.0)) < 1e-6


def test_changes_a_hundred_times_the_factors() -> None:
    """What the search found worst with one tolerance for all spectra."""
    assert error("fedsrd", *sparse_rescaled(17, 40, 1, 6, 0.04, 100.0, 100.0)) < 1e-5


@pytest.mark.parametrize("cuts", [0, 2, 16])
def test_a_basis_that_is_cut_back(cuts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "COLUMNS", 40)
    monkeypatch.setattr(many, "CUTS", cuts)
    assert error("fedsrd", *sparse_rescaled(150, 200, 8, 24, 0.04, 3.0, 10.0)) < 1e-6


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(st.integers(5, 40), st.integers(5, 40), st.integers(1, 4)),
    clients=st.integers(5, 12),
    density=st.sampled_from([0.04, 0.2, 1.0]),
    grow=st.tuples(st.floats(-4, 2), st.floats(-4, 2)),
    seed=st.integers(0, 1000),
)
def test_the_worst_spectrum_that_a_search_finds(
    shape: tuple[int, int, int], clients: int, density: float, grow: tuple[float, float], seed: int
) -> None:
    module, changes, p = sparse_rescaled(*shape, clients, density, 10 ** grow[0], 10 ** grow[1], seed)
    s = torch.linalg.svdvals(oracles.mean_product(module, changes, p))
    rank = module.rank
    assume(s[rank - 1] - s[rank] > 1e-4 * s[rank - 1])  # closer together, the best approximation is any of many
    assume(all(exact("fedsrd", module, changes, p, r).norm() > 1e-9 for r in (0, 1)))  # below, nothing is to be found
    found = error("fedsrd", module, changes, p)
    target(found)
    assert found < 1e-5


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("solve", ["damped", "bounded"])
@pytest.mark.parametrize("condition", [10.0, 1e4])
@pytest.mark.parametrize("clients", [3, 12])
def test_damped_and_bounded(name: str, solve: str, condition: float, clients: int) -> None:
    module, changes, p = make(clients=clients, condition=condition)
    found = run(name, module, changes, p, 0, solve=solve, damping=0.05)
    d = oracles.wanted(module, changes, p, name == "fedsrd")
    mean = sum(w * da.double() for w, (da, _) in zip(p, changes, strict=True))
    wanted = oracles.damped(module.b, d, 0.05) if solve == "damped" else oracles.bounded(module.b, d, mean)
    assert relative(found, wanted) < 1e-6
    if solve == "bounded":
        assert (found.double() - mean).norm() <= mean.norm() * (1 + 1e-6)


def test_both_algorithms_agree_and_leave_inputs_alone() -> None:
    from thinwire.lowrank import FixedFactor

    module, changes, p = make(clients=4)
    terms = [(w, da, db) for w, (da, db) in zip(p, changes, strict=True)]
    before = [tensor.clone() for term in terms for tensor in term[1:]] + [module.a.clone(), module.b.clone()]
    few, many = (function(FixedFactor.of(module.b), module.a, terms) for function in (best_of_few, best_of_many))
    for one, other in zip(few, many, strict=True):
        assert relative(one, other.double()) < 1e-6
    after = [tensor for term in terms for tensor in term[1:]] + [module.a, module.b]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
