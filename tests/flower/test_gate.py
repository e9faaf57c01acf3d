"""What passes the gate in front of Flower's processes, and what is refused by name."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import contextmanager

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from thinwire.flower import gate
from thinwire.flower.gate import LARGEST, Gate, Inside, Outside, loopback_user

SITES, OPERATOR = 8443, 18443


def ask(method: str, path: str, port: int, headers=(), bodies=(b"",)) -> tuple[int, list[str], int]:
    """Status of an answer, what was noted, and how many bytes the application read."""
    noted, sent, read = [], [], 0

    async def application(scope, receive, send):
        nonlocal read
        while (message := await receive())["type"] == "http.request":
            read += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 401 if path.endswith("activate-node") else 200})

    pieces = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    pieces[-1]["more_body"] = False

    async def receive():
        return pieces.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    scope |= {"client": ("127.0.0.1", 50000), "server": ("127.0.0.1", port)}
    doors = {SITES: Outside({gate.fingerprint("c291dGg="): "south"}), OPERATOR: Inside("secret")}
    asyncio.run(Gate(application, doors, noted.append)(scope, receive, send))
    return sent[0]["status"], noted, read


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet"),
        ("POST", "/v1/fleets/x"),
        ("POST", "//v1/fleet/x"),
        ("POST", "/V1/FLEET/x"),
        ("GET", "/v1/fleet/x"),
        ("GET", "/docs"),
        ("GET", "/"),
    ],
)
def test_from_outside_only_calls_of_nodes_pass(method, path):
    status, noted, _ = ask(method, path, SITES)
    assert status == 403
    assert noted == [f"127.0.0.1, without a key: {method} {path}: only calls of a site's node pass here"]


def test_a_site_that_asks_for_the_time_is_no_intruder():
    assert ask("GET", "/v1/fleet/", SITES) == (404, [], 0)


def test_what_a_node_is_refused_is_noted_with_its_key():
    assert ask("POST", "/v1/fleet/pull-messages", SITES) == (200, [], 0)
    for key, name in (("c291dGg=", "key of south"), ("eA==", "key SHA256:"), ("\x00", "key that is none")):
        status, noted, _ = ask("POST", "/v1/fleet/activate-node", SITES, [(b"flwr-public-key", key.encode())])
        assert status == 401
        assert name in noted[0]
        assert "Flower refuses it with 401" in noted[0]


def test_a_path_cannot_write_lines_into_the_log():
    noted = ask("GET", "/\n2026 refused nobody\x1b[2J" + "x" * 500, SITES)[1]
    assert len(noted) == 1
    assert noted[0].isprintable()
    assert len(noted[0]) < 400


@pytest.mark.parametrize("size", [str(LARGEST + 1), "-1", "9" * 5000, "x"])
def test_a_body_that_says_it_is_too_large_is_not_read(size):
    status, noted, read = ask("POST", "/v1/fleet/x", SITES, [(b"content-length", size.encode())])
    assert (status, read) == (413, 0)
    assert "its body is larger" in noted[0]


def test_a_body_that_does_not_say_it_is_cut():
    assert ask("POST", "/v1/fleet/x", SITES, bodies=[bytes(LARGEST // 2)] * 3)[2] == LARGEST


@pytest.mark.parametrize("user", [None, 1, 65534])
@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/docs"])
def test_inside_other_users_get_nothing_whatever_they_have(monkeypatch, user, path):
    monkeypatch.setattr(gate, "loopback_user", lambda client, server: user)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, noted, _ = ask("POST", path, OPERATOR, [(b"authorization", b"Bearer secret")])
    assert status == 403
    assert ("cannot be told" if user is None else f"user {user} ") in noted[0]


@pytest.mark.parametrize("user", [0, 1000])
def test_inside_control_wants_the_operator_s_key(monkeypatch, user):
    monkeypatch.setattr(gate, "loopback_user", lambda client, server: user)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for headers in ([], [(b"authorization", b"Bearer wrong")], [(b"authorization", b"Bearer secret")] * 2):
        assert ask("POST", "/v1/control/start-run", OPERATOR, headers)[0] == 401
    assert ask("POST", "/v1/control/start-run", OPERATOR, [(b"authorization", b"Bearer secret")])[0] == 200
    assert ask("POST", "/v1/runtime/acquire-task", OPERATOR)[0] == 200, "Flower asks for the executor's secret"
    assert ask("GET", "/docs", OPERATOR, [(b"authorization", b"Bearer secret")])[0] == 403


@contextmanager
def connection():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, address = server.accept()
        with accepted:
            yield client, address, accepted.getsockname()


def test_the_kernel_says_whose_a_connection_is():
    with connection() as (client, address, server):
        assert loopback_user(address, server) == os.geteuid()
        assert loopback_user((address[0], address[1] ^ 1), server) is None
        client.close()
        assert loopback_user(address, server) is None, "closed: the kernel says root"
    assert loopback_user(None, server) is None
