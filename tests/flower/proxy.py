"""A proxy that ends TLS and passes what SuperNodes ask, and nothing else: what deployment.md has nginx do."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ALLOWED = "/v1/fleet/"
HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "date", "server"}


@contextmanager
def proxy(port: int, upstream: int, folder: Path) -> Iterator[list[tuple[bool, str]]]:
    """Listen on `port` as the server in `folder`, pass to `upstream`; of every request: was it passed, and its path."""
    seen: list[tuple[bool, str]] = []
    trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            allowed = self.path.startswith(ALLOWED)
            seen.append((allowed, self.path))
            status, headers, content = self.passed(body) if allowed else (403, [], b"")
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def passed(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """The SuperLink's answer to this request."""
            link = http.client.HTTPSConnection("localhost", upstream, timeout=120, context=trust)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                link.request(self.command, self.path, body, headers)
                reply = link.getresponse()
                kept = [(name, value) for name, value in reply.getheaders() if name.lower() not in HOP]
                return reply.status, kept, reply.read()
            except OSError:
                return 502, [], b""
            finally:
                link.close()

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
