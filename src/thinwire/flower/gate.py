"""Who may ask Flower's processes for what: an ASGI application in front of Flower's own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Note = Callable[[str], None]

FLEET, RUNTIME, CONTROL = "/v1/fleet/", "/v1/runtime/", "/v1/control/"
"""Flower's interfaces: for nodes, for processes that run an app, for the operator."""

LARGEST = 16 << 20
"""Bytes of a request from outside; Flower cuts arrays into pieces of 5 MiB."""

SIZE = re.compile("[0-9]{1,9}")
SOCKETS = Path("/proc/net/tcp")


@dataclass(frozen=True)
class Outside:
    """The port that sites reach: calls of nodes pass, which Flower itself checks, and nothing else."""

    names: Mapping[str, str]
    """Sites by the fingerprint of their public key."""

    def refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and reason; 0 if the request passes."""
        if (scope["method"], scope["path"]) == ("GET", FLEET):
            return 404, ""  # a site asks for the time: that is in the head of any answer
        if scope["method"] != "POST" or not scope["path"].startswith(FLEET):
            return 403, "only calls of a site's node pass here"
        if (size := header(scope, b"content-length")) and not (SIZE.fullmatch(size) and int(size) <= LARGEST):
            return 413, f"its body is larger than {LARGEST} bytes"
        return 0, ""

    def who(self, scope: Scope) -> str:
        """The address of a request, and whose key it says it has."""
        claimed = header(scope, b"flwr-public-key")
        if not claimed:
            return f"{address(scope)}, without a key"
        mark = fingerprint(claimed)
        return f"{address(scope)}, key of {self.names[mark]}" if mark in self.names else f"{address(scope)}, key {mark}"


@dataclass(frozen=True)
class Inside:
    """A port on loopback: processes of this user (and root) only; Control with the operator's key, if there is one."""

    key: str = ""

    def refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and reason; 0 if the request passes."""
        user = loopback_user(scope["client"], scope["server"])
        if user not in (os.geteuid(), 0):
            whose = "whose it is cannot be told" if user is None else f"user {user} is not the one that runs it"
            return 403, whose
        if scope["path"].startswith(RUNTIME):
            return 0, ""
        if not (self.key and scope["path"].startswith(CONTROL)):
            return 403, "nothing answers here"
        if not hmac.compare_digest(header(scope, b"authorization").encode(), f"Bearer {self.key}".encode()):
            return 401, "the operator's key is missing or wrong"
        return 0, ""

    def who(self, scope: Scope) -> str:
        return f"{address(scope)}, on this machine"


@dataclass(frozen=True)
class Gate:
    """Flower's application behind doors, one for each port; a refusal is noted with who asked for what."""

    application: Application
    doors: Mapping[int, Outside | Inside]
    note: Note
    before_start: Callable[[], None] = lambda: None
    """Called when a run is to be started, before Flower is asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.application(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self.doors[scope["server"][1]]
        asked = ascii(f"{scope['method']} {scope['path']}"[:200])[1:-1]
        status, why = door.refusal(scope)
        if why:
            self.note(f"{door.who(scope)}: {asked}: {why}")
        if status:
            await refuse(send, status, why)
            return
        if isinstance(door, Outside):
            receive, send = limited(receive), self.watched(send, f"{door.who(scope)}: {asked}")
        elif scope["path"] == f"{CONTROL}start-run":
            self.before_start()
        await self.application(scope, receive, send)

    def watched(self, send: Send, asked: str) -> Send:
        """Also notes what Flower refuses: a key that is not registered, a signature that does not fit."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and 400 <= message["status"] < 500:
                self.note(f"{asked}: Flower refuses it with {message['status']}")
            await send(message)

        return sending


def limited(receive: Receive) -> Receive:
    """Ends a body that is larger than `LARGEST`, whatever its head says."""
    seen = 0

    async def receiving() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= LARGEST else {"type": "http.disconnect"}

    return receiving


async def refuse(send: Send, status: int, why: str) -> None:
    """An answer in plain words."""
    head = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": f"refused: {why}\n".encode()})


def header(scope: Scope, name: bytes) -> str:
    """A header of a request; empty if it has none, or several."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "an unknown address"


def fingerprint(claimed: str) -> str:
    """Of a public key as a node sends it: base64 of its PEM."""
    try:
        content = base64.b64decode(claimed, validate=True)
    except (binascii.Error, ValueError):
        return "that is none"
    return f"SHA256:{hashlib.sha256(content).hexdigest()[:16]}"


def loopback_user(client: tuple[str, int] | None, server: tuple[str, int]) -> int | None:
    """The user whose process has the other end of a connection on this machine, by the kernel's table of sockets.

    None if there is no such connection, or it is being closed: then the kernel no longer says whose it was.
    """
    if client is None or not SOCKETS.exists():
        return None
    ends = [hexadecimal(client), hexadecimal(server)]
    with SOCKETS.open() as table:
        for line in table:
            fields = line.split()
            if fields[1:3] == ends:
                established, inode = fields[3] == "01", fields[9]
                return int(fields[7]) if established and inode != "0" else None
    return None


def hexadecimal(end: tuple[str, int]) -> str:
    """One end of a connection as the kernel's table writes it."""
    host = int.from_bytes(socket.inet_aton(end[0]), sys.byteorder)
    return f"{host:08X}:{end[1]:04X}"
