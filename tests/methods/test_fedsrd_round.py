"""FedSRD's clients, broadcast and switches: by hand, by the official steps, and what the presets bring back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.laws.synthetic import federation, first, learn, made, rounds, send
from tests.methods import dense
from thinwire.adapters import Adapters
from thinwire.compress import StepContext
from thinwire.engine.jobs import Job
from thinwire.lowrank import LowRank
from thinwire.method import Client, Context
from thinwire.methods import create
from thinwire.payload import Listed, Seeded
from thinwire.simulation.rounds import play
from thinwire.wire import unpack

PUBLISHED = ("fedsrd-official", "fedsrd-e-official")
OFFICIAL = {"base": 0.85, "coefficient": 0.1, "upper": 0.11, "rescale": True}


def uploads_of_a_round(method, number=1, clients=3):
    """(state before, {client: (dA, dB by module decoded, trained)}) of round `number`."""
    federated = federation(method, clients)
    state, _ = rounds(federated, number)
    ctx, sent = Context(number, federated.seed), {}
    for client in federated.clients:
        own = replace(state.clients[client.name], version=state.server.version)
        plan = method.plan(state.server.adapters, client, own.memory, ctx)
        job = Job(plan, federated.examples[client.name], 0, number, optimizer=own.optimizer)
        trained = learn([job])[0].adapters
        sent[client.name] = (unpack(send(method, client, own, plan, trained, ctx).blob).leaves, trained)
    return federated, state, sent


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_official_upload_follows_the_official_steps(name):
    method = made(name, {"precision": "float32"})
    _, state, sent = uploads_of_a_round(method)
    old = state.server.adapters
    for leaves, new in sent.values():
        for module in old.modules:
            da, db = new.modules[module].a - old.modules[module].a, new.modules[module].b - old.modules[module].b
            score_b = db.abs() * old.modules[module].a.norm(dim=1)
            score_a = da.abs() * new.modules[module].b.norm(dim=0)[:, None]
            for part, change, scores in (("a", da, score_a), ("b", db, score_b)):
                want = dense.sparsified(scores, change, **OFFICIAL)
                leaf = leaves[module, part]
                assert isinstance(leaf.positions, Listed)
                torch.testing.assert_close(leaf.dense().double(), want, rtol=1e-5, atol=1e-7)
                torch.testing.assert_close(leaf.dense().abs().sum(), change.abs().sum(), rtol=1e-5, atol=0)
        for extra, before in old.extras.items():
            change = new.extras[extra] - before
            want = dense.sparsified(change.abs(), change, **OFFICIAL)
            torch.testing.assert_close(leaves[extra, "extra"].dense().double(), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("number", [1, 2])
def test_an_official_round_follows_the_dense_formulas(name, number):
    """Server and broadcast: D, the pseudo-inverse, then a seeded mask of density .2 and a division by .2."""
    method = made(name, {"precision": "float32"})
    federated, state, sent = uploads_of_a_round(method, number)
    after = play(federated, state, lambda line: None).server
    broadcast = unpack(after.broadcasts[after.version]).leaves
    part = "a" if number % 2 == 0 else "b"
    for module, before in state.server.adapters.modules.items():
        changes = [(leaves[module, "a"].dense(), leaves[module, "b"].dense()) for leaves, _ in sent.values()]
        want = dense.update(before, changes, [1 / 3] * 3, part, svd=name == "fedsrd-official")
        leaf = broadcast[module, part]
        assert isinstance(leaf.positions, Seeded)
        assert leaf.positions.density == pytest.approx(0.2)
        kept = torch.zeros(leaf.size, dtype=torch.bool)
        kept[leaf.indices()] = True
        masked = torch.where(kept.reshape(leaf.shape), want / 0.2, 0.0)
        torch.testing.assert_close(leaf.dense().double(), masked, rtol=1e-3, atol=1e-5)
        moved = after.adapters[module, part] - getattr(before, part)
        torch.testing.assert_close(moved.double(), masked, rtol=1e-3, atol=1e-5)
        assert (module, "b" if part == "a" else "a") not in broadcast


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_official_code_starts_with_a_and_loses_round_0(name):
    federated = federation((name, {}), 3)
    start = first(federated)
    state, lines = rounds(federated, 1, start)
    assert all(line["status"] == "counted" and line["bytes_up"] > 0 for line in lines)
    for module, before in start.server.adapters.modules.items():
        assert torch.equal(state.server.adapters.modules[module].a, before.a)
        assert torch.equal(state.server.adapters.modules[module].b, before.b)
    later, _ = rounds(federated, 1, state)
    assert all(module.b.any() for module in later.server.adapters.modules.values())


@pytest.mark.parametrize("name", ["fedsrd", "fedsrd-e"])
def test_ours_learns_in_round_0(name):
    state, _ = rounds(federation((name, {}), 3), 1)
    modules = state.server.adapters.modules
    assert any(module.b.any() for module in modules.values())
    assert unpack(state.server.broadcasts[1]).density < 0.3


@pytest.mark.parametrize(("name", "turns"), [("fedsrd-e", "baba"), ("fedsrd-e-official", "abab")])
def test_factors_are_updated_in_turn(name, turns):
    federated = federation((name, {}), 2)
    state, seen = first(federated), []
    for _ in range(4):
        state = play(federated, state, lambda line: None)
        seen.append({part for _, part in unpack(state.server.broadcasts[state.server.version]).leaves} - {"extra"})
    assert seen == [{part} for part in turns]


def test_the_preset_is_the_official_value_of_every_switch():
    """Written out field by field, the official behaviour is the same to the last bit."""
    fields = {
        "first": "a",
        "upload": "kurtosis",
        "download": "random",
        "rescale": True,
        "solve": "pinv",
        "error_feedback": 0.0,
    }
    short, _ = rounds(federation(("fedsrd-official", {})), 3)
    long, _ = rounds(federation(("fedsrd", fields)), 3)
    assert short.server.broadcasts == long.server.broadcasts
    ours, _ = rounds(federation(("fedsrd", {})), 3)
    assert ours.server.broadcasts != long.server.broadcasts


def test_a_switch_that_is_given_wins_over_the_preset():
    method = create("fedsrd-official", {"first": "b", "error_feedback": 0.5})
    assert method.feedback == 0.5
    state, _ = rounds(federation(method), 1)
    assert {part for _, part in unpack(state.server.broadcasts[1]).leaves} == {"b", "extra"}


def test_importance_by_hand():
    """Rows of A have lengths 5 and 1; columns of the new B have lengths 5 and 2."""
    before = Adapters({"s": LowRank(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))})
    after = Adapters({"s": LowRank(torch.tensor([[3.0, 0.0], [4.0, 2.0]]), torch.tensor([[4.0, 3.0], [2.0, 1.0]]))})
    from thinwire.compress.importance import importance

    db = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    da = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    assert importance(("s", "b"), db, before, after).tolist() == [[5.0, 2.0], [2.5, 4.0]]
    assert importance(("s", "a"), da, before, after).tolist() == [[5.0, 5.0], [4.0, 0.0]]
    # at rate .5 the quantile of 5, 2, 2.5, 4 is 3.25: 5 and 4 stay, and are rescaled by 7.5 / 5
    method = made("fedsrd-official", {"base_rate": 0.5, "cap": 0.0, "precision": "float32"})
    from thinwire.compress import compress

    steps, context = method.up(Client("one", 0, 1), Context(0, 0)), StepContext(before, after, 0)
    leaves, _ = compress({("s", "b"): db}, steps, context, {})
    assert leaves["s", "b"].dense().tolist() == [[1.5, 0.0], [0.0, 6.0]]
    # of 5, 5, 4, 0 the quantile at .5 is 4.5: both fives stay
    leaves, _ = compress({("s", "a"): da}, steps, context, {})
    assert leaves["s", "a"].dense().tolist() == [[2.0, -2.0], [0.0, 0.0]]
