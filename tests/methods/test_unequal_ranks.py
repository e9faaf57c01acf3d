"""HetLoRA and FlexLoRA by their dense formulas: what a client of lower rank holds, sends and counts for."""

from __future__ import annotations

import pytest
import torch

from tests.laws.synthetic import MODULES, bits, federation, first, rounds, start_adapters
from tests.methods.watched import unequal, watched
from thinwire.engine import Upload, aggregate
from thinwire.lowrank import LowRank, principal
from thinwire.method import Context, Uploads
from thinwire.storage import checkpoint
from thinwire.wire import pack

EXACT = {"precision": "float32"}
RANKS = (1, 3, None)


def shares_of(made):
    total = sum(client.examples for client in made.clients)
    return {client.name: client.examples / total for client in made.clients}


@pytest.mark.parametrize("name", ["hetlora", "flexlora"])
def test_a_client_holds_the_first_rows(name):
    made = unequal((name, EXACT), ranks=RANKS)
    state, _ = rounds(made, 2)
    seen = watched(made, state)
    for client in made.clients:
        for module, whole in state.server.adapters.modules.items():
            rank = min(client.rank or whole.rank, whole.rank)
            own = seen.plans[client.name].start.modules[module]
            assert torch.equal(own.a, whole.a[:rank])
            assert torch.equal(own.b, whole.b[:, :rank])
            assert seen.up[client.name].leaves[module, "a"].shape == (rank, whole.a.shape[1])


@pytest.mark.parametrize("weighting", ["plain", "norm"])
def test_hetlora_is_the_weighted_mean_of_padded_factors(weighting):
    made = unequal(("hetlora", {"weighting": weighting, **EXACT}), ranks=RANKS, weights="examples")
    state, _ = rounds(made, 1)
    seen = watched(made, state)
    for name, (_, rank, _) in MODULES.items():
        modules = {client: own.modules[name] for client, own in seen.trained.items()}
        weights = shares_of(made)
        if weighting == "norm":
            weights = {k: p * float((modules[k].b.double() @ modules[k].a.double()).norm()) for k, p in weights.items()}
        total = sum(weights.values())
        for part in ("a", "b"):
            want = torch.zeros_like(getattr(state.server.adapters.modules[name], part))
            for client, module in modules.items():
                own = min(rank, module.rank)
                where = (slice(own),) if part == "a" else (slice(None), slice(own))
                want[where] += weights[client] / total * getattr(module, part)
            got = getattr(seen.after.server.adapters.modules[name], part)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_hetlora_weighs_equally_while_all_products_are_zero():
    method = federation(("hetlora", EXACT), 1).method
    module = start_adapters().modules["layer.0.query"]
    one, zero = torch.ones_like(module.a), torch.zeros_like(module.b)
    changes = [(0.25, {"a": one, "b": zero}), (0.75, {"a": -one, "b": zero})]
    got = method.rule(module, Uploads(2, lambda k: changes[k]), Context(0, 0))
    torch.testing.assert_close(got["a"], torch.full_like(module.a, -0.5))


def test_flexlora_is_the_svd_of_the_mean_product():
    made = unequal(("flexlora", EXACT), ranks=RANKS, weights="examples")
    state = first(made)
    for _ in range(2):
        seen = watched(made, state)
        for name, (_, rank, _) in MODULES.items():
            own = {client: trained.modules[name] for client, trained in seen.trained.items()}
            mean = sum(p * own[c].b.double() @ own[c].a.double() for c, p in shares_of(made).items())
            u, s, vt = torch.linalg.svd(mean, full_matrices=False)
            got = seen.after.server.adapters.modules[name]
            close(got.b.double() @ got.a.double(), (u[:, :rank] * s[:rank]) @ vt[:rank])
            for cut in range(1, rank + 1):  # each client's first components are the best of its rank
                close(got.b[:, :cut].double() @ got.a[:cut].double(), (u[:, :cut] * s[:cut]) @ vt[:cut])
            torch.testing.assert_close(got.a @ got.a.T, torch.eye(rank), rtol=0, atol=1e-5)
            assert got.scale == state.server.adapters.modules[name].scale
        state = seen.after


def close(got, want, tolerance=1e-5):
    assert float((got - want).norm()) <= tolerance * float(want.norm())


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("hetlora", {}),
        ("flexlora", {}),
        ("flora", {}),
        ("flora", {"warm_start": True}),
        ("flora", {"fixed_alpha": True}),
        ("flasc", {"rows": "largest"}),
        ("flasc", {"local": "sparse"}),
    ],
)
def test_a_resumed_run_of_unequal_clients_is_the_straight_run(name, fields, tmp_path):
    made = unequal((name, fields), ranks=RANKS, drop=0.2, weights="examples")
    straight, lines = rounds(made, 4)
    half, early = rounds(made, 2)
    checkpoint.save(half, tmp_path)
    loaded, problems = checkpoint.load(tmp_path, start_adapters(), made.seed, made.run)
    assert problems == []
    resumed, late = rounds(made, 2, loaded)
    assert bits(resumed.server) == bits(straight.server)
    assert early + late == lines


@pytest.mark.parametrize("name", ["hetlora", "flexlora", "flora", "flasc"])
def test_an_upload_of_another_rank_is_refused_and_named(name):
    made = unequal((name, {}), ranks=RANKS)
    state, _ = rounds(made, 1)
    seen = watched(made, state)
    small = Upload("client-0", 1.0, pack(seen.up["client-0"]), rank=1)
    large = Upload("client-0", 1.0, pack(seen.up["client-2"]), rank=1)
    ctx = Context(1, made.seed)
    assert aggregate(made.method, state.server, [small], ctx)[1].refused == {}
    same, outcome = aggregate(made.method, state.server, [large], ctx)
    assert same is state.server
    assert "client-0" in outcome.refused
    assert "shape" in outcome.refused["client-0"]


def test_components_that_the_product_lacks_can_still_be_trained():
    """Rank 1 in a module of rank 3: the other rows of A stay, with B zero, so that B has a gradient."""
    module = LowRank(torch.zeros(5, 3), torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), 2.0)
    total = LowRank(torch.ones(5, 1), torch.ones(1, 4))
    new = principal(total, module)
    torch.testing.assert_close(new.b @ new.a, torch.ones(5, 4))
    assert torch.equal(new.a[1:], module.a[1:])
    assert not new.b[:, 1:].any()
    assert new.scale == 2.0
    nothing = principal(LowRank(torch.zeros(5, 3), module.a), module)
    assert torch.equal(nothing.a, module.a)
    assert not nothing.b.any()
