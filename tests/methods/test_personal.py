"""Personal adapters: FDLoRA's two adapters, its momentum and fusion; FedSA-LoRA's own B; none of it ever travels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.laws.conftest import packed  # noqa: F401
from tests.laws.synthetic import bits, federation, learn, rounds, seeded, start_adapters
from thinwire.adapters import same
from thinwire.method import Context
from thinwire.methods import create
from thinwire.methods.fdlora import fused
from thinwire.nelder_mead import minimise
from thinwire.randomness import derive


def by_seed(jobs):
    """`learn`, and a step of the job's own: two jobs of one client end apart, as two orders of its examples do."""
    return [
        replace(done, adapters=done.adapters.add(apart(job, done.adapters)))
        for job, done in zip(jobs, learn(jobs), strict=True)
    ]


def apart(job, adapters):
    return {key: 0.05 * seeded(derive(job.seed, job.round, *key), *t.shape) for key, t in adapters.items()}


def first_plan():
    """FDLoRA after a round: the method, what a client holds, the client, the next round."""
    federated = federation(("fdlora", {}), 2)
    state, _ = rounds(federated, 1)
    return federated.method, state.server.adapters, federated.clients[0], Context(1, federated.seed)


@pytest.mark.parametrize("name", ["fdlora", "fedsa-lora"])
def test_a_personal_adapter_never_appears_in_a_payload(name, packed):  # noqa: F811
    federated = federation((name, {"precision": "float32"}), 3, train=by_seed)
    own, before = [], start_adapters()
    state = None
    for number in range(1, 5):
        state, _ = rounds(federated, 1, state)
        assert state.round == number
        for client in federated.clients:
            mine = state.clients[client.name].memory["own"]
            kept = {key: tensor for key, tensor in mine.items() if name == "fdlora" or key[1] == "b"}
            own += [kept, {key: tensor - before[key] for key, tensor in kept.items()}]
        before = state.server.adapters
    assert len(packed) > 12
    for payload, _ in packed:
        for key, leaf in payload.leaves.items():
            if name == "fedsa-lora":
                assert key[1] != "b"
            sent = leaf.dense()
            for kept in own:
                if key in kept:
                    assert not torch.allclose(sent, kept[key], rtol=1e-2, atol=1e-5)


def test_the_personal_adapter_goes_on_alone_between_syncs():
    method, view, client, ctx = first_plan()
    mine = start_adapters().add({key: torch.ones_like(t) for key, t in start_adapters().items()})
    assert method.personal.start(view, {"own": mine}, ctx) is mine
    assert method.personal.start(view, {"own": mine}, Context(method.period, ctx.seed)) is view
    assert method.personal.start(view, {}, ctx) is view
    assert method.plan(view, client, {"own": mine}, ctx).start is view


def test_stage_one_is_as_long_as_asked():
    lengths = []

    def train(jobs):
        lengths.append([job.plan.length for job in jobs])
        return learn(jobs)

    rounds(federation(("fdlora", {"stage_one": 3}), 1, train=train), 2)
    assert lengths == [[3, 3], [1, 1]]


def test_the_server_takes_nesterov_steps():
    """v = .5 v + d; theta += eta (d + .5 v), from round 1 on, by hand from the clients' own changes."""
    federated = federation(("fdlora", {"precision": "float32", "outer_rate": 0.3, "outer_momentum": 0.5}), 2)
    key, velocity, state = ("layer.0.up", "b"), torch.zeros(20, 2), None
    for number in range(4):
        view = start_adapters() if state is None else state.server.adapters
        changes = []

        def watch(jobs, view=view, changes=changes):
            done = learn(jobs)
            shared = [d for job, d in zip(jobs, done, strict=True) if job.plan.start is not None]
            changes += [d.adapters[key] - view[key] for d in shared[::2]]
            return done

        seen = federation(federated.method, 2, train=watch)
        state, _ = rounds(seen, 1, state)
        mean = sum(changes) / 2
        if number == 0:
            want = view[key] + mean
        else:
            velocity = 0.5 * velocity + mean
            want = view[key] + 0.3 * (mean + 0.5 * velocity)
        torch.testing.assert_close(state.server.adapters[key], want, rtol=1e-5, atol=1e-7)


def test_fusion_mixes_factors_and_shares_extras():
    one, two = rounds(federation(("fedit", {}), 2), 1)[0].server.adapters, start_adapters()
    both = fused(one, two, 0.75, -0.25)
    module, name = "layer.0.query", "head.weight"
    torch.testing.assert_close(both.modules[module].b, 0.75 * one.modules[module].b - 0.25 * two.modules[module].b)
    torch.testing.assert_close(both.modules[module].a, 0.75 * one.modules[module].a - 0.25 * two.modules[module].a)
    torch.testing.assert_close(both.extras[name], 0.75 * one.extras[name] + 0.25 * two.extras[name])
    assert both.modules[module].rank == one.modules[module].rank
    assert bits(fused(one, one, 0.0, 0.0).extras) == bits(fused(one, one, 0.5, 0.5).extras)


def test_the_fusion_finds_the_better_adapter():
    """A loss that is the distance to the personal adapter: its weight wins."""
    method = create("fdlora", {"evaluations": 60, "penalty": 0.0})
    view, mine = start_adapters(), rounds(federation(("fedit", {}), 2), 2)[0].server.adapters
    asked = []

    def score(adapters, count):
        asked.append(count)
        return float(sum((tensor - mine[key]).square().sum() for key, tensor in adapters.items()))

    found = method.personal.ends(view, {"own": mine}, score)
    assert list(found) == ["personal", "fused"]
    assert found["personal"].adapters is mine
    assert found["fused"].figures["w1"] == pytest.approx(1, abs=0.15)
    assert found["fused"].figures["w2"] == pytest.approx(0, abs=0.15)
    assert set(asked) == {method.examples}
    assert len(asked) <= 60


def test_nelder_mead_keeps_to_its_budget_and_starts_at_the_start():
    seen = []

    def bowl(point):
        seen.append(tuple(point))
        return (point[0] - 1) ** 2 + (point[1] + 2) ** 2

    best = minimise(bowl, (0.5, 0.5), 40)
    assert seen[0] == (0.5, 0.5)
    assert len(seen) <= 41
    assert best == pytest.approx([1, -2], abs=0.3)
    assert minimise(bowl, (0.5, 0.5), 1) == [0.5, 0.5]


def test_fedsa_shares_a_and_keeps_b():
    federated = federation(("fedsa-lora", {}), 3)
    state, _ = rounds(federated, 3)
    start = start_adapters()
    for name, module in state.server.adapters.modules.items():
        assert torch.equal(module.b, start.modules[name].b)
        assert not torch.equal(module.a, start.modules[name].a)
    ends = {}
    for client in federated.clients:
        memory = state.clients[client.name].memory
        ends[client.name] = federated.method.personal.ends(state.server.adapters, memory, None)["personal"].adapters
        for name, module in ends[client.name].modules.items():
            assert torch.equal(module.a, state.server.adapters.modules[name].a)
            assert torch.equal(module.b, memory["own"].modules[name].b)
    assert not same(ends["client-0"], ends["client-1"])


def test_one_who_missed_a_round_finds_its_own_adapter_again():
    federated = federation(("fdlora", {}), 4, clients_per_round=2)
    state, lines = rounds(federated, 6)
    for client in federated.clients:
        last = max((line["round"] for line in lines if line["client"] == client.name), default=None)
        assert ("own" in state.clients[client.name].memory) == (last is not None)
