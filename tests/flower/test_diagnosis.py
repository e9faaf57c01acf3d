"""What `join` says of a node that is not let in, against a small server with TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from thinwire.flower.diagnosis import AHEAD, BEHIND, clock_offset, trouble
from thinwire.flower.folder import VALID, Link, create
from thinwire.flower.processes import free_port


def site_of(folder: Path, valid: timedelta = VALID, port: int = 0) -> Path:
    create(folder / "f", Link("f", f"localhost:{port or free_port()}", "127.0.0.1"), ["beta"], None, valid)
    return folder / "f" / "sites" / "beta"


@contextmanager
def server(folder: Path, behind: float) -> Iterator[None]:
    """The federation's server, whose clock is that many seconds behind the one here."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", format_datetime(datetime.now(UTC) - timedelta(seconds=behind), usegmt=True))
            self.end_headers()

    port = int((folder / "sites" / "beta" / "link.toml").read_text().partition("localhost:")[2][:5])
    listening = HTTPServer(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server" / "server.crt", folder / "server" / "server.key")
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    listening.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


@pytest.mark.parametrize("behind", [-3600.0, -200.0, 0.0, 3.0, 3600.0])
def test_a_clock_beyond_the_bound_is_named(tmp_path, behind):
    site = site_of(tmp_path)
    with server(tmp_path / "f", behind):
        assert abs(clock_offset(site) - behind) < 2.0
        words = trouble(site)
    if -BEHIND < behind < AHEAD:
        assert words == ""
    else:
        assert f" s {'ahead of' if behind > 0 else 'behind'} the server's; allowed is at most 5 s ahead" in words
        assert "and 305 s behind: set the clock, by NTP" in words


def test_a_server_that_is_away_is_named(tmp_path):
    site = site_of(tmp_path)
    assert "does not answer: [Errno 111] Connection refused" in trouble(site)


def test_an_expired_certificate_is_named_with_the_time_here(tmp_path):
    site = site_of(tmp_path, timedelta(days=-1))
    with server(tmp_path / "f", 0.0):
        words = trouble(site)
    assert "is not accepted: certificate has expired (the clock here says 20" in words


def test_a_server_of_another_authority_is_named(tmp_path):
    site = site_of(tmp_path / "one")
    port = int((site / "link.toml").read_text().partition("localhost:")[2][:5])
    site_of(tmp_path / "two", port=port)
    with server(tmp_path / "two" / "f", 0.0):
        assert "is not accepted" in trouble(site)
