"""The shaped link takes the time that its rate and round trip say, and counts what passed."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from relay import Lane, link, passed

from thinwire.flower.processes import free_port

MEGABITS, ROUND_TRIP = 20.0, 50.0


def test_a_lane_is_shared():
    lane = Lane(rate=100.0, delay=1.0)
    assert lane.reserve(50, now=10.0) == 10.5
    assert lane.reserve(50, now=10.2) == 11.0
    assert lane.reserve(10, now=20.0) == 20.1


@pytest.fixture
def echo(tmp_path):
    """A connection through the link to a server that sends back what it gets, and the link's log."""
    port, log = free_port(), tmp_path / "link.log"
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    def answer(connection):
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    threading.Thread(target=accept, daemon=True).start()
    shaped = link(port, server.getsockname()[1], log, MEGABITS, ROUND_TRIP)
    with shaped, socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        yield client, log


def receive(client, size):
    while size:
        data = client.recv(min(size, 1 << 16))
        assert data, "the connection was closed"
        size -= len(data)


def test_an_echo_takes_a_round_trip_and_bytes_take_their_time(echo):
    client, log = echo
    client.sendall(b"x")
    receive(client, 1)
    began = time.perf_counter()
    client.sendall(b"x")
    receive(client, 1)
    assert 0.050 <= time.perf_counter() - began < 0.080
    size = 1_250_000
    began = time.perf_counter()
    threading.Thread(target=client.sendall, args=(bytes(size),), daemon=True).start()
    receive(client, size)
    seconds = time.perf_counter() - began
    assert 0.55 <= seconds < 0.70, "0.5 s for 10 Mbit, 50 ms of delay; both directions at once"
    time.sleep(0.2)
    assert passed(log, [time.time()]) == [(size + 2, size + 2)]
    assert passed(log, [0.0]) == [(0, 0)]
