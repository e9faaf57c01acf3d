"""FedIT, FFA-LoRA and the references, by hand."""

from __future__ import annotations

import pytest
import torch

from tests.laws.synthetic import federation, first, learn, rounds
from thinwire.adapters import EXTRA
from thinwire.engine.jobs import Job
from thinwire.method import Context
from thinwire.methods import create
from thinwire.wire import unpack


def alone(method, data, start, number=0):
    """What a client with this data ends with when it starts there."""
    federated = federation(method, 1, data=[data])
    plan = federated.method.plan(start, federated.clients[0], {}, Context(number, 0))
    return learn([Job(plan, federated.examples["client-0"], 0, number)])[0].adapters


@pytest.mark.parametrize("name", ["fedit", "ffa-lora"])
@pytest.mark.parametrize(("weights", "shares"), [("uniform", [1 / 3] * 3), ("examples", [2 / 9, 3 / 9, 4 / 9])])
def test_the_new_factors_are_the_mean_of_the_clients(name, weights, shares):
    federated = federation((name, {"precision": "float32"}), 3, weights=weights)
    before = first(federated).server.adapters
    state, _ = rounds(federated, 1)
    trained = [alone(federated.method, data, before) for data in range(3)]
    for key, tensor in state.server.adapters.items():
        want = sum(share * own[key] for share, own in zip(shares, trained, strict=True))
        torch.testing.assert_close(tensor, want, rtol=1e-5, atol=1e-6)


def test_ffa_lora_never_moves_or_sends_a():
    federated = federation(("ffa-lora", {}), 3)
    state, _ = rounds(federated, 3)
    for name, module in state.server.adapters.modules.items():
        assert torch.equal(module.a, state.server.start.modules[name].a)
        assert module.b.any()
    assert all(part in ("b", EXTRA) for blob in state.server.broadcasts.values() for _, part in unpack(blob).leaves)


def test_ffa_lora_is_exact_where_fedit_is_biased():
    """mean(B) A is the mean of the products; mean(B) mean(A) is not."""
    gaps = {}
    for name in ("fedit", "ffa-lora"):
        federated = federation((name, {"precision": "float32"}), 3)
        trained = [alone(federated.method, data, first(federated).server.adapters) for data in range(3)]
        state, _ = rounds(federated, 1)
        module = "layer.0.query"
        mean = sum(own.modules[module].b @ own.modules[module].a for own in trained) / 3
        got = state.server.adapters.modules[module]
        gaps[name] = float((got.b @ got.a - mean).norm() / mean.norm())
    assert gaps["ffa-lora"] < 1e-5
    assert gaps["fedit"] > 0.01


def test_local_clients_go_their_own_ways():
    state, _ = rounds(federation(("local", {}), 2), 2)
    one, other = (state.clients[name].memory["own"] for name in ("client-0", "client-1"))
    assert not torch.equal(one.modules["layer.0.up"].b, other.modules["layer.0.up"].b)
    assert create("local").own(state.held, state.clients["client-0"].memory) is one
    assert create("local").own(state.held, {}) is state.held
    assert create("fedit").personal is None


def test_local_can_freeze_a():
    state, _ = rounds(federation(("local", {"freeze_a": True}), 1), 2)
    own = state.clients["client-0"].memory["own"]
    for name, module in own.modules.items():
        assert torch.equal(module.a, state.server.start.modules[name].a)
