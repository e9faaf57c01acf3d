"""A lost upload leaves memory as if it had not been sent; what is not finite or not whole is refused and named."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.laws.synthetic import bits, federation, first, learn, made, rounds, send, spoiled
from thinwire.engine import ClientState, Upload, aggregate
from thinwire.engine.jobs import Job
from thinwire.engine.rounds import AllUploadsRefused
from thinwire.method import Client, Context
from thinwire.methods import create
from thinwire.payload import Payload, dense
from thinwire.wire import pack, unpack


@cache
def trained_once(method, number=1):
    """(client, state before, plan, trained, ctx) of one client after `number` rounds."""
    federated = federation(method, 3)
    state, _ = rounds(federated, number)
    client, ctx = federated.clients[1], Context(number, federated.seed)
    own = replace(state.clients[client.name], version=state.server.version)
    plan = method.plan(state.server.adapters, client, own.memory, ctx)
    done = learn([Job(plan, federated.examples[client.name], 0, number)])[0]
    return client, own, plan, done.adapters, ctx


def test_a_lost_upload_leaves_memory_as_if_it_had_not_been_sent(method):
    client, state, plan, trained, ctx = trained_once(method)
    sending = send(method, client, state, plan, trained, ctx)
    offered = method.encode(plan, trained, ctx)
    owed = {
        key: change + method.feedback * state.residual[key] if key in state.residual else change
        for key, change in offered.items()
    }
    want = {**state.residual, **owed} if method.feedback else {}
    assert bits(sending.lost.residual) == bits(want)
    assert bits(sending.lost.memory) == bits(sending.counted.memory)
    assert sending.lost.version == state.version


def test_feedback_keeps_what_was_left_out(travelling):
    client, state, plan, trained, ctx = trained_once(travelling)
    sending = send(travelling, client, state, plan, trained, ctx)
    if not travelling.feedback:
        assert sending.counted.residual == {}
        return
    sent = {key: leaf.dense() for key, leaf in unpack(sending.blob).leaves.items()}
    for key, owed in sending.lost.residual.items():
        torch.testing.assert_close(sending.counted.residual[key] + sent[key], owed, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["fedsrd-e", "fedsrd-e-official"])
def test_an_upload_the_server_refuses_is_owed_again(name):
    """An overflow in float16: finite where it was trained, refused by the server, and still finite in the memory."""
    method = made(name, {"precision": "float16"})
    state, lines = rounds(federation(method, 3, train=spoiled({1}, value=1e30)), 1)
    assert lines[1]["status"].startswith("refused: ")
    assert "not finite" in lines[1]["status"]
    residual = state.clients["client-1"].residual
    assert all(tensor.isfinite().all() for tensor in residual.values())
    assert bool(residual) == bool(method.feedback)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_that_is_not_finite_is_refused_and_named(method, value):
    state, lines = rounds(federation(method, 3, train=spoiled({1}, value)), 1)
    by_client = {line["client"]: line["status"] for line in lines}
    assert by_client["client-0"] == by_client["client-2"] == "counted"
    assert by_client["client-1"].startswith("refused: ")
    assert "is not finite" in by_client["client-1"]
    assert any(module in by_client["client-1"] for module in ("query", "conv", "up", "head", "norm"))
    assert state.clients["client-1"].residual == {}
    assert state.clients["client-1"].memory == {}
    assert state.clients["client-1"].optimizer == {}
    assert all(tensor.isfinite().all() for _, tensor in state.server.adapters.items())


def test_a_refused_client_does_not_change_what_the_others_make(travelling):
    with_bad, _ = rounds(federation(travelling, 3, train=spoiled({2})), 1)
    without, _ = rounds(federation(travelling, 2), 1)
    assert bits(with_bad.server.adapters) == bits(without.server.adapters)


def test_a_loss_that_is_not_finite_is_refused(method):
    _, lines = rounds(federation(method, 3, train=spoiled({0}, value=0.0, loss=math.nan)), 1)
    assert lines[0]["status"] == "refused: the loss is not finite"
    assert lines[0]["loss"] is None
    assert [line["status"] for line in lines[1:]] == ["counted", "counted"]


def test_nobody_left_stops_the_run_and_names_everyone(method):
    federated = federation(method, 2, train=spoiled({0, 1}))
    state = first(federated)
    before = bits(state)
    with pytest.raises(AllUploadsRefused, match=r"round 1.*client-0.*client-1"):
        rounds(federated, 1, state)
    assert bits(state) == before


@cache
def one_upload(method):
    """A server at version 1 with the next round's good uploads."""
    federated = federation(method, 2)
    state, _ = rounds(federated, 1)
    ctx, uploads = Context(1, federated.seed), []
    for client in federated.clients:
        own = replace(state.clients[client.name], version=1)
        plan = method.plan(state.server.adapters, client, {}, ctx)
        done = learn([Job(plan, federated.examples[client.name], 0, 1)])[0]
        uploads.append(Upload(client.name, 1.0, send(method, client, own, plan, done.adapters, ctx).blob))
    return state.server, ctx, uploads


def bad_blobs(server, blob):
    """What a broken or hostile module may send, with a word of the reason."""
    good = unpack(blob)
    key, leaf = next(iter(good.leaves.items()))
    shape = leaf.shape
    others = {k: v for k, v in good.leaves.items() if k != key}
    return {
        "nan": (pack(replace(good, leaves={**good.leaves, key: dense(torch.full(shape, math.nan))})), "not finite"),
        "cut": (blob[:-9], "checksum"),
        "empty": (b"", "bytes"),
        "flipped": (blob[:40] + bytes([blob[40] ^ 255]) + blob[41:], "checksum"),
        "old": (pack(replace(good, version=server.version - 1)), "version"),
        "other run": (pack(replace(good, run=server.run + 1)), "run"),
        "state": (pack(replace(good, kind="state")), "kind"),
        "shape": (pack(replace(good, leaves={**others, key: dense(torch.zeros(3, 3))})), "shape"),
        "unknown": (
            pack(replace(good, leaves={**good.leaves, ("nowhere", "a"): dense(torch.zeros(3, 3))})),
            "not among",
        ),
        "missing": (pack(replace(good, leaves=others)), key[0]),
        "nothing": (pack(Payload("change", server.version, server.run, {})), "missing"),
    }


def test_bad_uploads_are_refused_and_named(travelling):
    server, ctx, (good, other) = one_upload(travelling)
    want, _ = aggregate(travelling, server, [good], ctx)
    for what, (blob, word) in bad_blobs(server, other.blob).items():
        after, outcome = aggregate(travelling, server, [good, replace(other, blob=blob)], ctx)
        assert list(outcome.refused) == [other.client], what
        assert word in outcome.refused[other.client], what
        assert bits(after) == bits(want), what


def test_factors_that_a_method_does_not_train_are_refused():
    method = create("ffa-lora")
    server, ctx, (good, other) = one_upload(method)
    payload = unpack(other.blob)
    module = "stem.conv"
    blob = pack(
        replace(payload, leaves={**payload.leaves, (module, "a"): dense(torch.ones_like(server.adapters[module, "a"]))})
    )
    after, outcome = aggregate(method, server, [good, replace(other, blob=blob)], ctx)
    assert module in outcome.refused[other.client]
    assert bits(after.adapters.modules[module].a) == bits(server.start.modules[module].a)


def test_a_server_without_a_good_upload_stays_as_it_is(travelling):
    server, ctx, (good, _) = one_upload(travelling)
    after, outcome = aggregate(travelling, server, [replace(good, blob=b"")], ctx)
    assert bits(after) == bits(server)
    assert outcome.accepted == ()


def test_a_client_may_start_without_memory(travelling):
    client, _, plan, trained, ctx = trained_once(travelling)
    stranger = Client("stranger", 9, 1)
    sending = send(travelling, stranger, ClientState(version=1), plan, trained, ctx)
    assert unpack(sending.blob).version == 1
    assert client.name != stranger.name
