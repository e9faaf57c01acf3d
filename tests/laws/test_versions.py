"""Who missed rounds, joins late or drops out holds exactly what the others hold."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.laws.synthetic import bits, federation, first, rounds, start_adapters
from thinwire import engine
from thinwire.adapters import same
from thinwire.engine import message, receive
from thinwire.method import Client, Context
from thinwire.simulation.rounds import messages_for, play, received
from thinwire.wire import WireError

ANYONE, NOW = Client("anyone", 0, 1), Context(5, 7)


@cache
def history(method, other_start=False, count=4):
    """States before rounds 1 to `count`, and every broadcast by the version it leads to (before any is forgotten)."""
    begun, key = start_adapters(), ("norm.weight", "extra")
    initial = begun.add({key: -begun[key]}) if other_start else None
    federated = federation(method, 3)
    states = [first(federated, initial)]
    log = dict(states[0].server.broadcasts)
    for _ in range(count):
        states.append(play(federated, states[-1], lambda line: None))
        log |= states[-1].server.broadcasts
    return states, log


@pytest.mark.parametrize("other_start", [False, True])
def test_both_ways_to_catch_up_end_in_the_same_bits(broadcasting, other_start):
    states, log = history(broadcasting, other_start)
    server = states[-1].server
    assert server.version == 4
    for version, state in [(None, states[0]), *((state.server.version, state) for state in states)]:
        held = start_adapters() if version is None else state.server.adapters
        missed = [log[number] for number in range(0 if version is None else version + 1, server.version + 1)]
        for blobs in (missed, [server.state], message(broadcasting, server, ANYONE, version, NOW)):
            got, reached = receive(broadcasting, ANYONE, (held, version), blobs, server.start, server.run)
            assert reached == server.version
            assert bits(got) == bits(server.adapters)


def test_the_smaller_way_is_sent(broadcasting):
    states, log = history(broadcasting)
    server = states[-1].server
    for version in (None, *range(server.version + 1)):
        sent = sum(map(len, message(broadcasting, server, ANYONE, version, NOW)))
        missed = sum(len(log[number]) for number in range(0 if version is None else version + 1, server.version + 1))
        assert sent <= len(server.state)
        if all(n in server.broadcasts for n in range(0 if version is None else version + 1, server.version + 1)):
            assert sent == min(missed, len(server.state))
    assert message(broadcasting, server, ANYONE, server.version, NOW) == []


def test_everyone_who_takes_part_holds_the_servers_adapters(broadcasting):
    """Every client decodes its own messages for real; nobody leans on the simulation's shared copy."""
    federated = federation(broadcasting, 5, clients_per_round=3, drop=0.3, first_round={"client-4": 4})
    state = first(federated)
    held = {client.name: (state.server.start, None) for client in federated.clients}
    late = []
    for _ in range(6):
        lines, before = [], state
        state = play(federated, before, lines.append)
        for line in lines:
            client = next(client for client in federated.clients if client.name == line["client"])
            adapters, version = held[client.name]
            blobs = messages_for(federated, before, client)
            assert sum(map(len, blobs)) == line["bytes_down"]
            server = before.server
            held[client.name] = receive(broadcasting, client, (adapters, version), blobs, server.start, server.run)
            assert same(held[client.name][0], server.adapters)
            late += [version] if (version or 0) + 1 < server.version else []
    assert late, "nobody ever missed a round"
    assert held["client-4"][1] is not None


def test_a_state_of_its_own_is_what_the_client_trains_from(stating):
    federated = federation(stating, 3)
    state, _ = rounds(federated, 2)
    messages = {client.name: messages_for(federated, state, client) for client in federated.clients}
    for client in federated.clients:
        held = received(federated, state, [client], messages)[client.name]
        whole = stating.rule.cut(state.server.adapters, client.rank)
        assert [key for key, _ in held.items()] == [key for key, _ in whole.items()]
        for key, tensor in held.items():
            kept = tensor != 0
            torch.testing.assert_close(tensor[kept], whole[key][kept], rtol=1e-2, atol=1e-6)


def test_drop_outs_train_and_send_nothing(travelling):
    state, lines = rounds(federation(travelling, 4, drop=0.5), 3)
    gone = [line for line in lines if line["status"] == "dropped out"]
    assert gone
    assert all(line["bytes_up"] == 0 and line["loss"] is None for line in gone)
    assert state.totals.uploads == len(lines) - len(gone)
    assert any(line["bytes_down"] for line in gone), "a client that drops out in mid-round was sent its download"


def test_a_round_that_everyone_leaves_changes_nothing(method):
    federated = federation(method, 2, drop=0.999999)
    before = first(federated)
    state, lines = rounds(federated, 2, before)
    assert state.round == 2
    assert {line["status"] for line in lines} == {"dropped out"}
    assert bits(state.server) == bits(before.server)


def test_a_late_joiner_takes_no_part_before_its_round(method):
    _, lines = rounds(federation(method, 3, first_round={"client-1": 3}), 4)
    assert [line["round"] for line in lines if line["client"] == "client-1"] == [3, 4]


def test_messages_out_of_order_are_refused(broadcasting):
    states, log = history(broadcasting)
    server = states[3].server

    def receive(*arguments):
        return engine.receive(broadcasting, ANYONE, *arguments)

    with pytest.raises(WireError, match="cannot follow"):
        receive((states[1].server.adapters, 1), [log[3]], server.start, server.run)
    with pytest.raises(WireError, match="cannot follow"):
        receive((server.start, None), [log[1]], server.start, server.run)
    with pytest.raises(WireError, match="run"):
        receive((server.start, None), [log[0]], server.start, server.run + 1)
    with pytest.raises(WireError, match="holds nothing"):
        receive((server.start, None), [], server.start, server.run)


def test_changes_that_are_held_already_are_passed_over(broadcasting):
    """A server that missed a client's answer sends again what the client has applied."""
    states, log = history(broadcasting)
    server = states[3].server
    blobs = [log[1], log[2], log[3]]
    got = receive(broadcasting, ANYONE, (states[2].server.adapters, 2), blobs, server.start, server.run)
    assert got[1] == 3
    assert bits(got[0]) == bits(server.adapters)
