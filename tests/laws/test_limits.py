"""Declared limits, extras and convolutions, and clients with the same data."""

from __future__ import annotations

import pytest
import torch

from tests.laws.limits import LIMITS
from tests.laws.synthetic import EXTRAS, MODULES, distance, federation, is_extra, label, rounds, start_adapters
from thinwire.adapters import Adapters
from thinwire.method import Context
from thinwire.methods import METHODS, REFERENCES
from thinwire.presets import PRESETS
from thinwire.simulation.reference import final_adapters


def products(adapters):
    """What the adapters add to the base, merged parts included, as extras: no factor is compared."""
    whole = {name: module.scale * module.b @ module.a for name, module in adapters.modules.items()}
    for name, pair in adapters.merged.items():
        whole[name] = whole[name] + pair.b @ pair.a
    return Adapters({}, {**whole, **adapters.extras})


def final(name, fields, clients, data=None, count=4, **config):
    """The global adapters, or the only client's own."""
    federated = federation((name, dict(fields)), clients, data=data, **config)
    state, _ = rounds(federated, count)
    (adapters,) = dict(final_adapters(federated.method, state)).values()
    return adapters


def test_every_method_declares_a_limit():
    assert {*METHODS, *PRESETS, *REFERENCES} == {limit.name for limit in LIMITS}


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.name}-{limit.equals}")
def test_declared_limits_hold(limit):
    one = final(limit.name, limit.settings, limit.clients, count=limit.rounds)
    other = final(limit.equals, limit.other, limit.clients, count=limit.rounds)
    if limit.parts:
        one = other.put({key: one[key] for key, _ in one.items() if key[1] in limit.parts})
        other = one.put({key: other[key] for key, _ in one.items() if key[1] in limit.parts})
    begun = start_adapters()
    if limit.products:
        one, other, begun = products(one), products(other), products(begun)
    assert distance(one, other) <= limit.tolerance
    assert distance(other, begun) > (0.001 if limit.products else 0.01), "nothing was learnt, so nothing was compared"


@pytest.mark.parametrize(
    "case",
    [
        ("fedit", {}),
        ("ffa-lora", {}),
        ("fedsrd", {}),
        ("fedsrd-e", {}),
        ("fedsrd-official", {}),
        ("fedsrd-e-official", {"first": "b"}),
        ("flasc", {}),
        ("hetlora", {}),
    ],
    ids=label,
)
@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_clients_with_the_same_data_are_one_client(case, weights):
    name, fields = case[0], {**case[1], "precision": "float32"}
    many = final(name, fields, 4, data=[3, 3, 3, 3], weights=weights)
    one = final(name, fields, 1, data=[3])
    assert distance(many, one) < 1e-5


def test_extras_and_convolutions_are_trained_and_keep_their_shapes(method):
    state, _ = rounds(federation(method, 3), 12)
    learnt, alone = state.server.adapters, method.name in REFERENCES
    if alone:
        learnt = next(iter(state.clients.values())).memory["own"]
    start = start_adapters()
    for name, (height, rank, width) in MODULES.items():
        module = learnt.modules[name]
        assert (module.b.shape, module.a.shape) == ((height, rank), (rank, width))
        assert module.scale == start.modules[name].scale
    for name, shape in EXTRAS.items():
        assert learnt.extras[name].shape == shape
    moved = {key for key, tensor in learnt.items() if key not in start or not torch.equal(tensor, start[key])}
    frozen = {key for key, _ in start.items()} - moved
    if method.rule.merges:
        assert {name for name, part in moved if part == "merged_a"} == set(MODULES)
    else:
        travel = method.sends(Context(0, 0)) | method.sends(Context(1, 0))
        assert frozen == {key for key, _ in start.items() if not alone and key[1] not in travel}
    assert any(map(is_extra, moved))
    assert all(tensor.dtype == torch.float32 for _, tensor in learnt.items())


def test_extras_of_a_dense_method_are_the_weighted_mean():
    federated = federation(("fedit", {"precision": "float32"}), 3, weights="examples")
    state, _ = rounds(federated, 1)
    alone = [
        rounds(federation(("local", {}), 1, data=[data]), 1)[0].clients["client-0"].memory["own"] for data in range(3)
    ]
    total = sum(client.examples for client in federated.clients)
    for name in EXTRAS:
        want = sum(
            own.extras[name] * client.examples / total for own, client in zip(alone, federated.clients, strict=True)
        )
        torch.testing.assert_close(state.server.adapters.extras[name], want, rtol=1e-5, atol=1e-7)


def test_more_clients_than_a_factor_has_room_for(method):
    """Ten, whose ranks add up to 40, where the largest matrix is of 20 rows."""
    state, lines = rounds(federation(method, 10), 2)
    assert len(lines) == 20
    assert {line["status"] for line in lines} == {"counted"}
    assert all(tensor.isfinite().all() for _, tensor in state.server.adapters.items())
