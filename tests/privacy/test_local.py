"""Noise on each upload: put on the change before anything is selected, so that all that follows is made of it alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.laws.synthetic import TRAVELLING, bits, federation, label, learn, made, rounds, send
from tests.privacy.synthetic import length, with_noise
from thinwire.compress import decode
from thinwire.engine import ClientState
from thinwire.engine.jobs import Job
from thinwire.method import Client, Context
from thinwire.privacy.noise import Noise
from thinwire.wire import unpack

NOISE = Noise("upload", 0.1, 2.0, 11)
CASES = pytest.mark.parametrize("case", TRAVELLING, ids=label)


def offered(case, noise, number: int = 1, residual: bool = True):
    """(the change before noise, the sending, the state before it) of one client after a round."""
    method = made(*case)
    federated = federation(method, 3)
    state, _ = rounds(with_noise(federated, "upload"), number)
    client, ctx = federated.clients[1], Context(number, federated.seed)
    own = replace(state.clients[client.name], version=state.server.version)
    own = own if residual else replace(own, residual={})
    plan = method.plan(method.rule.cut(state.server.adapters, None), client, own.memory, ctx)
    trained = learn([Job(plan, federated.examples[client.name], 0, number)])[0].adapters
    change = method.encode(plan, trained, ctx)
    return change, send(method, client, own, plan, trained, ctx, noise), own, ctx, client


@CASES
def test_residual_and_upload_are_made_of_the_noised_change(case):
    """Error feedback owes what the masks left out of noised values; nothing of the plain change is kept or sent."""
    change, sending, before, ctx, client = offered(case, NOISE)
    noised = NOISE.onto_change(change, "upload", ctx.round, client.name)
    assert length(noised) > 1.5 * 0.1 * 2.0, "the noise is much larger than what was clipped"
    feedback = made(*case).feedback
    if not feedback:
        assert sending.counted.residual == {}
        return
    sent = decode(unpack(sending.blob).leaves)
    for key, tensor in noised.items():
        owed = tensor + feedback * before.residual.get(key, torch.zeros_like(tensor))
        torch.testing.assert_close(sending.lost.residual[key], owed, rtol=0, atol=1e-7)
        torch.testing.assert_close(sent[key] + sending.counted.residual[key], owed, rtol=0, atol=1e-6)


@CASES
def test_what_is_selected_depends_on_the_noised_change_alone(case):
    """Another training with the same noised change sends the same bytes: no mask looked at the plain factors."""
    method, ctx, client = made(*case), Context(0, 7), Client("c", 0, 2)
    federated = federation(method, 3)
    start = rounds(federated, 1)[0].server.adapters
    plan = method.plan(method.rule.cut(start, None), client, {}, ctx)
    one, other = (learn([Job(plan, federated.examples[name], 0, 1)])[0].adapters for name in ("client-0", "client-1"))

    class Same(Noise):
        def onto_change(self, change, *names):
            return {key: torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape) for key, tensor in change.items()}

    blobs = {
        send(method, client, ClientState(1), plan, done, ctx, Same("upload", 1.0, 1.0, 0)).blob for done in (one, other)
    }
    assert len(blobs) == 1


def test_the_decoded_upload_is_clipped_and_noised():
    change, sending, _, _, _ = offered(("fedit", {"precision": "float32"}), NOISE)
    assert length(change) > NOISE.clip
    sent = decode(unpack(sending.blob).leaves)
    share = NOISE.clip / length(change)
    rest = torch.cat([(sent[key].double() - share * change[key].double()).flatten() for key in change])
    assert float(rest.std()) == pytest.approx(0.2, rel=5 / math.sqrt(2 * len(rest)))


def test_every_client_and_round_has_noise_of_its_own():
    change = {("q", "a"): torch.zeros(50)}
    seen = {bits(NOISE.onto_change(change, "upload", n, name)["q", "a"]) for n in (0, 1) for name in ("x", "y")}
    assert len(seen) == 4


@CASES
def test_without_noise_and_clip_it_is_the_plain_round(case):
    plain, _ = rounds(federation(case, 3), 3)
    free, _ = rounds(with_noise(federation(case, 3), "upload", 1e9, 0.0), 3)
    for key, tensor in plain.server.adapters.items():
        torch.testing.assert_close(free.server.adapters[key], tensor, rtol=0, atol=1e-2)


def test_a_change_that_is_not_finite_shows_nothing_but_noise():
    change = {("q", "a"): torch.tensor([float("nan"), 1.0]), ("q", "b"): torch.tensor([float("inf")])}
    quiet = {key: torch.zeros_like(tensor) for key, tensor in change.items()}
    assert bits(NOISE.onto_change(change, 0)) == bits(NOISE.onto_change(quiet, 0))
