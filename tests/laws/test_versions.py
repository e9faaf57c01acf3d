"""Who missed rounds, joins late or drops out holds exactly what the others hold."""

from __future__ import annotations

import pytest

from tests.laws.synthetic import bits, federation, first, rounds, start_adapters
from thinwire.adapters import same
from thinwire.engine import message, receive
from thinwire.simulation.rounds import play
from thinwire.wire import WireError


def history(method, count=5, initial=None):
    """States before round 0..count, and every broadcast by the version it leads to (before any is forgotten)."""
    federated = federation(method, 3)
    states = [first(federated, initial)]
    log = dict(states[0].server.log)
    for _ in range(count):
        states.append(play(federated, states[-1], lambda line: None))
        log |= states[-1].server.log
    return states, log


@pytest.mark.parametrize("other_start", [False, True])
def test_both_ways_to_catch_up_end_in_the_same_bits(travelling, other_start):
    start, key = start_adapters(), ("norm.weight", "extra")
    initial = start.add({key: -start[key]}) if other_start else None
    states, log = history(travelling, initial=initial)
    server = states[-1].server
    assert server.version == 5
    for version, state in [(None, states[0]), *((state.server.version, state) for state in states)]:
        held = start_adapters() if version is None else state.server.adapters
        missed = [log[number] for number in range(0 if version is None else version + 1, server.version + 1)]
        for blobs in (missed, [server.state], message(server, version)):
            got, reached = receive(held, version, blobs, server.start, server.run)
            assert reached == server.version
            assert bits(got) == bits(server.adapters)


def test_the_smaller_way_is_sent(travelling):
    states, log = history(travelling)
    server = states[-1].server
    for version in (None, *range(server.version + 1)):
        sent = sum(map(len, message(server, version)))
        missed = sum(len(log[number]) for number in range(0 if version is None else version + 1, server.version + 1))
        assert sent <= len(server.state)
        if all(n in server.log for n in range(0 if version is None else version + 1, server.version + 1)):
            assert sent == min(missed, len(server.state))
    assert message(server, server.version) == []


def test_everyone_who_takes_part_holds_the_servers_adapters(travelling):
    """Every client decodes its own messages for real; nobody leans on the simulation's shared copy."""
    federated = federation(travelling, 5, clients_per_round=3, drop=0.3, join={"client-4": 3})
    state = first(federated)
    held = {client.name: (state.server.start, None) for client in federated.clients}
    late = []
    for _ in range(8):
        lines, server = [], state.server
        state = play(federated, state, lines.append)
        for line in lines:
            adapters, version = held[line["client"]]
            blobs = message(server, version)
            assert sum(map(len, blobs)) == line["bytes_down"]
            held[line["client"]] = receive(adapters, version, blobs, server.start, server.run)
            assert same(held[line["client"]][0], server.adapters)
            late += [version] if (version or 0) + 1 < server.version else []
    assert late, "nobody ever missed a round"
    assert held["client-4"][1] is not None


def test_drop_outs_train_and_send_nothing(travelling):
    state, lines = rounds(federation(travelling, 4, drop=0.5), 4)
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
    _, lines = rounds(federation(method, 3, join={"client-1": 2}), 4)
    assert [line["round"] for line in lines if line["client"] == "client-1"] == [2, 3]


def test_messages_out_of_order_are_refused(travelling):
    states, log = history(travelling, 3)
    server = states[-1].server
    with pytest.raises(WireError, match="cannot follow"):
        receive(states[1].server.adapters, 1, [log[3]], server.start, server.run)
    with pytest.raises(WireError, match="cannot follow"):
        receive(server.start, None, [log[1]], server.start, server.run)
    with pytest.raises(WireError, match="run"):
        receive(server.start, None, [log[0]], server.start, server.run + 1)
    with pytest.raises(WireError, match="holds nothing"):
        receive(server.start, None, [], server.start, server.run)
