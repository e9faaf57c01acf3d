"""FLASC by its four steps, and by its modes: frozen A, sparse training, one mask, decay, tiers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.compress.test_top_k import sorted_out
from tests.laws.synthetic import MODULES, federation, first, made, rounds, start_adapters
from tests.methods.watched import unequal, watched
from tests.tiny_models import copying
from tests.training.test_trainer import set_up
from thinwire.adapters import EXTRA, Change
from thinwire.compress import decode
from thinwire.engine.jobs import Job
from thinwire.method import Client, Context
from thinwire.methods import create
from thinwire.settings import ConfigError
from thinwire.training.config import TrainConfig

EXACT = {"precision": "float32"}
ANYONE = Client("client-0", 0, 2)


def flat(adapters):
    return dict(adapters.items())


def share(payload):
    """Share of values that travelled, of the whole model's."""
    return sum(leaf.kept for leaf in payload.leaves.values()) / start_adapters().parameters


def test_a_round_by_the_papers_four_steps():
    """Top-k of the trainables down, dense training, top-k of the change against the masked start up, plain mean."""
    made = federation(("flasc", {"down_density": 0.3, "up_density": 0.1, **EXACT}), 3, weights="examples")
    before, _ = rounds(made, 2)
    seen = watched(made, before)
    theta = flat(before.server.adapters)
    masked = sorted_out(theta, 0.3)
    shares = {client.name: client.examples / sum(c.examples for c in made.clients) for client in made.clients}
    mean = {key: torch.zeros_like(tensor) for key, tensor in theta.items()}
    for name, plan in seen.plans.items():
        assert not plan.masks
        assert plan.parts == {"a", "b", EXTRA}
        assert all(torch.equal(tensor, masked[key]) for key, tensor in plan.start.items())
        change = {key: tensor - masked[key] for key, tensor in seen.trained[name].items()}
        want = sorted_out(change, 0.1)
        assert all(torch.equal(seen.sent(name)[key], want[key]) for key in want)
        mean = {key: mean[key] + shares[name] * want[key] for key in mean}
    for key, tensor in seen.after.server.adapters.items():
        torch.testing.assert_close(tensor, theta[key] + mean[key], rtol=1e-5, atol=1e-7)


def test_nothing_is_fed_back_and_everyone_forgets():
    state, _ = rounds(federation(("flasc", {}), 3), 3)
    for client in ("client-0", "client-1"):
        assert state.clients[client].residual == {}
        assert state.clients[client].memory == {}


def test_the_server_keeps_what_no_client_was_sent():
    made = federation(("flasc", {"down_density": 0.05, **EXACT}), 2)
    state, _ = rounds(made, 2)
    server = flat(state.server.adapters)
    down = decode(watched(made, state).down["client-0"][0].leaves)
    assert sum(int((tensor != 0).sum()) for tensor in down.values()) < 0.06 * state.server.adapters.parameters
    assert sum(int((tensor != 0).sum()) for tensor in server.values()) > 0.5 * state.server.adapters.parameters


def test_evaluation_is_on_what_a_client_would_be_sent_next():
    made = federation(("flasc", {"down_density": 0.2, "decay": 0.5, **EXACT}), 2)
    state, _ = rounds(made, 2)
    result = made.method.exchange.result(state.server.adapters, Context(2, made.seed))
    want = sorted_out(flat(state.server.adapters), 0.2 * 0.25)
    assert all(torch.equal(tensor, want[key]) for key, tensor in result.items())
    sent = decode(watched(made, state).down["client-0"][0].leaves)
    assert all(torch.equal(result[key], tensor) for key, tensor in sent.items())
    dense = create("flasc", {"down_density": 1.0})
    whole = dense.exchange.result(state.server.adapters, Context(2, 0))
    assert all(torch.equal(tensor, state.server.adapters[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("direction", ["down", "up"])
def test_densities_decay_to_the_floor(direction):
    fields = {"down_density": 0.4, "up_density": 0.4, "decay": 0.5, "floor": 0.15}
    made = federation(("flasc", fields), 2)
    state, found = first(made), []
    for _ in range(4):
        seen = watched(made, state)
        found.append(share(seen.up["client-1"] if direction == "up" else seen.down["client-1"][0]))
        state = seen.after
    assert found == pytest.approx([0.4, 0.2, 0.15, 0.15], abs=0.01)


def test_a_floor_above_the_density_raises_nothing():
    (step,) = create("flasc", {"up_density": 0.05, "floor": 0.5, "decay": 0.9}).up(ANYONE, Context(7, 0))
    assert step.density == 0.05


def test_frozen_a_never_moves_travels_or_is_masked():
    made = federation(("flasc", {"freeze_a": True, "down_density": 0.1}), 3)
    state, _ = rounds(made, 3)
    seen = watched(made, state)
    assert all(part != "a" for payload in (*seen.up.values(), seen.down["client-0"][0]) for _, part in payload.leaves)
    result = made.method.exchange.result(state.server.adapters, Context(3, 0))
    for name, module in start_adapters().modules.items():
        for adapters in (state.server.adapters, seen.plans["client-1"].start, result):
            assert torch.equal(adapters.modules[name].a, module.a)
    trained = [key for key, _ in state.server.adapters.items() if key[1] != "a"]
    count = sum(state.server.adapters[key].numel() for key in trained)
    assert sum(leaf.kept for leaf in seen.down["client-0"][0].leaves.values()) == int(0.1 * count)


def test_sparse_training_begins_dense_and_then_moves_only_what_was_sent():
    made = federation(("flasc", {"local": "sparse", "down_density": 0.3, "up_density": 1.0, **EXACT}), 2)
    seen = watched(made, first(made))
    assert not seen.plans["client-0"].masks
    assert share(seen.up["client-0"]) > 0.99
    seen = watched(made, seen.after)
    plan = seen.plans["client-0"]
    assert set(plan.masks) == {key for key, _ in plan.start.items()}
    assert all(torch.equal(mask, plan.start[key] != 0) for key, mask in plan.masks.items())
    moving = sum(int(mask.sum()) for mask in plan.masks.values())
    assert moving == int(0.3 * plan.start.parameters)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.9},
    ],
)
def test_the_trainer_leaves_unsent_entries_where_they_are(tiny, optimizer):
    """With the real loop, momentum and decay: what the mask names moves, nothing else, not by a bit."""
    config = TrainConfig(steps=4, batch=4, **optimizer)
    trainer, begin = set_up(tiny("llama"), config, extras=("model.norm",))
    method = made("flasc", {"local": "sparse", **EXACT})
    dense = method.plan(begin, ANYONE, {}, Context(0, 0))
    warm = trainer.train([Job(dense, copying(40), 5, 0)])[0].adapters
    view = warm.put(sorted_out(flat(warm), 0.2))
    plan = method.plan(view, ANYONE, {}, Context(1, 0))
    done = trainer.train([Job(plan, copying(40), 5, 1)])[0].adapters
    moved = 0
    for key, tensor in done.items():
        unsent = view[key] == 0
        assert not tensor[unsent].any()
        moved += int((tensor != view[key]).sum())
    assert moved > 0.1 * 0.2 * view.parameters


def test_one_mask_is_chosen_after_a_dense_round_and_stays():
    fields = {"local": "fixed", "down_density": 0.25, "up_density": 1.0, **EXACT}
    made = federation(("flasc", fields), 2)
    start = first(made)
    seen = watched(made, start)
    assert share(seen.down["client-0"][0]) == share(seen.up["client-0"]) == 1.0
    whole = watched(federation(("fedit", EXACT), 2), first(made)).after.server.adapters
    want = sorted_out(flat(whole), 0.25)
    mask = {key: tensor != 0 for key, tensor in seen.after.server.adapters.items()}
    assert all(torch.equal(mask[key], want[key] != 0) for key in mask)
    state = seen.after
    for _ in range(3):
        seen = watched(made, state)
        state = seen.after
        assert all(torch.equal(tensor != 0, mask[key]) for key, tensor in seen.plans["client-1"].start.items())
        assert all(torch.equal(own, mask[key]) for key, own in seen.plans["client-1"].masks.items())
        result = made.method.exchange.result(state.server.adapters, Context(state.round, 0))
        assert all(torch.equal(tensor, result[key]) for key, tensor in state.server.adapters.items())


@pytest.mark.parametrize("local", ["dense", "sparse", "fixed"])
def test_a_client_never_receives_or_sends_more_than_its_density(local):
    tiers = (1 / 16, 1 / 4, 1.0)
    made = unequal(("flasc", {"local": local}), densities=tiers)
    state = first(made)
    for _ in range(3):
        seen = watched(made, state)
        for client in made.clients:
            for payload in (seen.up[client.name], seen.down[client.name][0]):
                assert share(payload) <= client.density
                nonzero = sum(int((tensor != 0).sum()) for tensor in decode(payload.leaves).values())
                assert nonzero <= client.density * state.server.adapters.parameters
        if local == "dense":
            assert share(seen.up["client-0"]) > 0.9 / 16, "what a tier allows is used"
        state = seen.after


def largest_rows(module, rank):
    norms = [float(module.b[:, row].norm() * module.a[row].norm()) for row in range(module.rank)]
    return sorted(sorted(range(module.rank), key=lambda row: -norms[row])[:rank])


@pytest.mark.parametrize("rows", ["first", "largest"])
def test_rank_tiers_hold_rows_and_give_them_back_to_where_they_were_cut(rows):
    dense = {"down_density": 1.0, "up_density": 1.0, **EXACT}
    made = unequal(("flasc", {"rows": rows, **dense}), ranks=(1, 2, None))
    state, _ = rounds(made, 2)
    turned = {  # so that the largest rows are not the first
        (name, "b"): module.b.flip(1) * torch.arange(1.0, module.rank + 1)
        for name, module in state.server.adapters.modules.items()
    }
    state = replace(state, server=replace(state.server, adapters=state.server.adapters.put(turned)))
    seen = watched(made, state)
    changes: list[Change] = []
    for client in made.clients:
        whole: Change = {}
        for name, module in state.server.adapters.modules.items():
            rank = min(client.rank or module.rank, module.rank)
            held = largest_rows(module, rank) if rows == "largest" else list(range(rank))
            own, trained = seen.plans[client.name].start.modules[name], seen.trained[client.name].modules[name]
            assert torch.equal(own.a, module.a[held])
            assert torch.equal(own.b, module.b[:, held])
            assert own.scale == module.scale
            da, db = torch.zeros_like(module.a), torch.zeros_like(module.b)
            da[held], db[:, held] = trained.a - own.a, trained.b - own.b
            whole |= {(name, "a"): da, (name, "b"): db}
        changes.append(whole)
    for name, module in state.server.adapters.modules.items():
        after = seen.after.server.adapters.modules[name]
        for part in ("a", "b"):
            want = sum(change[name, part] for change in changes) / 3
            torch.testing.assert_close(getattr(after, part) - getattr(module, part), want, rtol=1e-4, atol=1e-6)
    assert any(largest_rows(module, 1) != [0] for module in state.server.adapters.modules.values())


def test_frozen_a_cannot_follow_the_largest_rows():
    with pytest.raises(ConfigError, match="rows = 'largest': not with freeze_a"):
        create("flasc", {"freeze_a": True, "rows": "largest"})


def test_ranks_and_densities_of_a_client_go_together():
    made = unequal(("flasc", {}), ranks=(1, 2, None), densities=(0.1, 0.2, 0.3))
    state, _ = rounds(made, 2)
    for client in made.clients:
        seen = watched(made, state)
        held = sum(tensor.numel() for _, tensor in made.method.rule.cut(state.server.adapters, client.rank).items())
        for payload in (seen.up[client.name], seen.down[client.name][0]):
            assert sum(leaf.kept for leaf in payload.leaves.values()) <= client.density * held
    ranks = {name: module.rank for name, module in state.server.adapters.modules.items()}
    assert set(ranks.values()) == {rank for _, rank, _ in MODULES.values()}
