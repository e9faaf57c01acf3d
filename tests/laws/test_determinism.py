"""Same seed, same bytes; inputs unchanged; no bit depends on order or scale of the uploads, or on a resume."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.laws.synthetic import bits, everything, federation, first, learn, rounds, start_adapters
from thinwire.engine import Upload, aggregate
from thinwire.method import Context, Method
from thinwire.simulation.rounds import play
from thinwire.storage import checkpoint
from thinwire.storage.state import State
from thinwire.wire import unpack

BUSY = {"clients_per_round": 3, "drop": 0.3, "first_round": {"client-4": 3}, "weights": "examples"}


@cache
def captured(method: Method, number: int = 2) -> tuple[Context, State, list[Upload]]:
    """The uploads of one round, as the server gets them, and the state they meet."""
    from thinwire.engine import rounds as module

    seen: list[Upload] = []

    def watch(used: Method, server, uploads, ctx, *rest):
        seen[:] = uploads
        return aggregate(used, server, uploads, ctx, *rest)

    federated = federation(method, 4, weights="examples")
    state, _ = rounds(federated, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "aggregate", watch)
        play(federated, state, lambda line: None)
    return Context(number, federated.seed), state, seen


def test_inputs_stay_unchanged(method):
    given = []

    def train(jobs):
        done = learn(jobs)
        given.append((jobs, done, bits([(job.plan.start, job.optimizer) for job in jobs]), bits(done)))
        return done

    federated = federation(method, 3, train=train)
    state = first(federated)
    for _ in range(2):
        before = bits(state)
        after = play(federated, state, lambda line: None)
        assert bits(state) == before
        state = after
    for jobs, done, starts, trained in given:
        assert bits([(job.plan.start, job.optimizer) for job in jobs]) == starts
        assert bits(done) == trained


def test_same_seed_same_bytes(method):
    runs = [rounds(federation(method, 5, **BUSY), 3) for _ in range(2)]
    assert everything(runs[0][0]) == everything(runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_another_seed_draws_other_masks_and_samples():
    sampled = [rounds(federation(("fedit", {}), 8, seed=seed, clients_per_round=3), 4)[1] for seed in (1, 2)]
    assert [line["client"] for line in sampled[0]] != [line["client"] for line in sampled[1]]
    faithful = ("fedsrd-e-official", {"first": "b"})
    masked = [rounds(federation(faithful, seed=seed), 1)[0].server.broadcasts[1] for seed in (1, 2)]
    leaves = [unpack(blob).leaves["stem.conv", "b"].indices().tolist() for blob in masked]
    assert leaves[0] != leaves[1]


def test_arrival_order_changes_no_bit(travelling):
    ctx, state, uploads = captured(travelling)
    want, _ = aggregate(travelling, state.server, uploads, ctx)
    for order in itertools.islice(itertools.permutations(uploads), 0, None, 5):
        got, outcome = aggregate(travelling, state.server, order, ctx)
        assert bits(got) == bits(want)
        assert outcome.accepted == tuple(sorted(upload.client for upload in uploads))


def test_scaling_all_weights_changes_nothing(travelling):
    ctx, state, uploads = captured(travelling)
    want, _ = aggregate(travelling, state.server, uploads, ctx)
    for factor in (7.0, 0.125, 1e6):
        got, _ = aggregate(travelling, state.server, [replace(u, weight=factor * u.weight) for u in uploads], ctx)
        assert bits(got) == bits(want), factor


def test_weights_matter(travelling):
    ctx, state, uploads = captured(travelling)
    want, _ = aggregate(travelling, state.server, uploads, ctx)
    got, _ = aggregate(travelling, state.server, [replace(uploads[0], weight=9.0), *uploads[1:]], ctx)
    assert bits(got.adapters) != bits(want.adapters)


def test_a_resumed_run_is_the_straight_run(method, tmp_path: Path):
    """Stopped before a client joins, and before all have taken part."""
    federated = federation(method, 5, **BUSY)
    straight, lines = rounds(federated, 4)
    half, early = rounds(federated, 2)
    checkpoint.save(half, tmp_path)
    loaded, problems = checkpoint.load(tmp_path, start_adapters(), federated.seed, federated.run)
    assert problems == []
    assert bits(loaded) == bits(half)
    resumed, late = rounds(federated, 2, loaded)
    assert everything(resumed) == everything(straight)
    assert early + late == lines
