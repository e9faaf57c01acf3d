"""RoLoRA and FedEx-LoRA: the mean product is exact."""

from __future__ import annotations

import pytest
import torch

from tests.laws.synthetic import MODULES, federation, first, rounds
from tests.methods.watched import product, watched

EXACT = {"precision": "float32"}


def shares_of(made):
    total = sum(client.examples for client in made.clients)
    return {client.name: client.examples / total for client in made.clients}


def close(got, want, tolerance=1e-6):
    assert float((got - want).norm()) <= tolerance * float(want.norm())


@pytest.mark.parametrize("name", ["rolora", "fedex-lora"])
def test_the_new_product_is_the_mean_of_the_clients(name):
    made = federation((name, EXACT), 3, weights="examples")
    state = first(made)
    for _ in range(3):
        seen = watched(made, state)
        for module in MODULES:
            want = sum(p * product(seen.trained[client], module) for client, p in shares_of(made).items())
            close(product(seen.after.server.adapters, module), want, 2e-6)
        state = seen.after


def test_fedex_keeps_fedits_factors_and_merges_what_they_leave_out():
    one, other = (federation((name, EXACT), 3) for name in ("fedex-lora", "fedit"))
    got, fedit = (watched(made, first(made)).after.server.adapters for made in (one, other))
    for module in MODULES:
        torch.testing.assert_close(got.modules[module].a, fedit.modules[module].a, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(got.modules[module].b, fedit.modules[module].b, rtol=1e-5, atol=1e-7)
        assert got.merged[module].rank == min(2 * got.modules[module].rank, *product(got, module).shape)
        assert float((product(got, module) - product(fedit, module)).norm()) > 1e-3


def test_a_residual_of_lower_rank_is_its_best_approximation():
    whole, cut = (
        watched(made, first(made)).after.server.adapters.merged
        for made in (federation(("fedex-lora", {"residual_rank": rank, **EXACT}), 3) for rank in (None, 1))
    )
    for module in MODULES:
        u, s, vt = torch.linalg.svd(whole[module].b.double() @ whole[module].a.double(), full_matrices=False)
        assert cut[module].rank == 1
        close(cut[module].b.double() @ cut[module].a.double(), s[0] * u[:, :1] @ vt[:1], 1e-5)


def test_clients_that_agree_leave_no_residual():
    made = federation(("fedex-lora", EXACT), 3, data=[3, 3, 3])
    state, _ = rounds(made, 2)
    for module, merged in state.server.adapters.merged.items():
        assert float((merged.b @ merged.a).norm()) < 1e-6 * float(product(state.server.adapters, module).norm())


def test_rolora_trains_b_and_a_in_turn():
    made, seen = federation(("rolora", {}), 2), []
    state = first(made)
    for _ in range(4):
        one = watched(made, state)
        seen.append({part for _, part in one.up["client-0"].leaves} - {"extra"})
        state = one.after
    assert seen == [{"b"}, {"a"}, {"b"}, {"a"}]
