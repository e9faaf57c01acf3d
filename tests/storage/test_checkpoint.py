"""A checkpoint of an earlier release: broadcasts in another wire format are dropped, and the state is sent instead."""

from __future__ import annotations

import json

from tests.laws.synthetic import federation, rounds
from thinwire.adapters import same
from thinwire.engine import message, receive
from thinwire.method import Context
from thinwire.storage import checkpoint


def test_who_missed_a_broadcast_of_an_earlier_format_is_sent_the_state():
    made = federation(("fedsrd", {}), 3)
    state, _ = rounds(made, 3)
    tensors = {tuple(json.loads(text)): tensor for text, tensor in checkpoint.flatten(state).items()}
    assert len(state.server.broadcasts) > 1
    manifest = json.loads(json.dumps(checkpoint.describe(state)))
    args = manifest, state.clients, state.server.start, state.server.seed, state.server.run
    assert checkpoint.unflatten(tensors, *args).server.broadcasts == state.server.broadcasts
    for path, tensor in tensors.items():
        if path[0] == "log":
            tensor[3] = 1
    server = checkpoint.unflatten(tensors, *args).server
    assert server.broadcasts == {}
    (client, *_), ctx = made.clients, Context(3, made.seed)
    (blob,) = message(made.method, server, client, 1, ctx)
    held, version = receive(made.method, client, (server.start, None), [blob], server.start, server.run)
    assert version == server.version
    assert same(held, server.adapters)
