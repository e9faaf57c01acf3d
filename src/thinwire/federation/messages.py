"""What server and site say to each other: a header of plain values, and packed payloads as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from thinwire.federation.settings import WORD
from thinwire.settings import ConfigError, build, setting, shown

HEADER, BLOBS, BLOB = 1 << 22, 1 << 16, 1 << 40
"""Most bytes of a header, most blobs of a message, most bytes of a blob."""

BUDGET = "budget"
PROBLEMS = {
    "recipe": "the recipe is none that this site can run",
    "method": "the recipe's method is code that this site does not allow, or does not have",
    "privacy": "the recipe promises less privacy than this site asks for, or is not the one that its run began with",
    "limits": "the recipe asks for more than this site's [limits] allow",
    "load": "this site's base or records cannot be used with this recipe",
    "changed": "this site's records changed since the run began",
    "unknown": "the run is unknown at this site; a hello must come first",
    "request": "the request does not fit what this site holds",
    "state": "this site's record of the run is lost or damaged",
    "training": "what this site trained is not finite, or is not what the method sends",
    BUDGET: "privacy budget spent",
    "disk": "a file at this site cannot be read or written",
    "app": "the site's own function failed",
    "trainer": "the site's trainer cannot be reached",
    "folder": "the run directory is not on this machine; a Ray cluster needs it on a file system that all share",
    "defect": "an error that thinwire did not foresee",
}
"""Code -> what the server prints. Nothing else can be told, and the server takes no other code."""

PROBLEMS_FILE = "problems.jsonl"
"""A site's own log of what went wrong, in full; it stays at the site."""

TASKS = ("hello", "round", "evaluate", "test", "catch-up", "finish")


class MessageError(ValueError):
    """Bytes that are not a message; the text says what is wrong with them."""


@dataclass(frozen=True)
class Request:
    """What the server asks of a site. `counted`: the last round whose upload of this site counted, -1: none.

    tasks: hello (load the recipe, say what you hold), round (train, send the change), evaluate and test (score on the
    site's validation and test records), catch-up (apply the blobs), finish (test, and export the adapter). version: the
    server's. recipe: in hello only. client: the fields of `method.Client`. blobs: packed broadcasts, in order.
    """

    task: str = setting(doc="what is asked", choices=TASKS)
    run: str = setting(doc="the run's name")
    round: int = 0
    version: int = 0
    counted: int = -1
    recipe: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a site answers. problem: the code of why it could not, empty if it could; version: of what it holds now.

    facts: plain values: what it reports of itself, or metrics and counts. blobs: the packed upload, if there is one.
    """

    task: str = setting(doc="what was asked; empty: unknown", choices=("", *TASKS))
    run: str = setting(doc="the run's name")
    site: str = setting(doc="the site's name")
    round: int = 0
    version: int | None = None
    problem: str = setting("", "why it could not", choices=("", *PROBLEMS))
    facts: dict[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()

    @property
    def trouble(self) -> str:
        """The problem in words; empty without one."""
        return f"{PROBLEMS[self.problem]} (see {PROBLEMS_FILE} at the site)" if self.problem else ""

    @property
    def blob(self) -> bytes:
        return self.blobs[0] if self.blobs else b""


Message = TypeVar("Message", Request, Reply)


def header(message: Request | Reply) -> str:
    """The message without its blobs, as JSON."""
    return json.dumps({key: value for key, value in vars(message).items() if key != "blobs"}, sort_keys=True)


def request(text: str, blobs: Sequence[bytes]) -> Request:
    """The request of a header and its blobs. Raises: MessageError."""
    return _built(Request, text, blobs)


def reply(text: str, blobs: Sequence[bytes]) -> Reply:
    """The reply of a header and its blobs. Raises: MessageError."""
    return _built(Reply, text, blobs)


def _built(kind: type[Message], text: str, blobs: Sequence[bytes]) -> Message:
    name = kind.__name__.lower()
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise MessageError(f"{name}: a header that is not a table of values: {text[:60]}")
        built = build(kind, {**values, "blobs": tuple(blobs)}, name)
    except (ConfigError, RecursionError) as error:
        raise MessageError(shown(str(error))) from None
    except ValueError as error:  # no JSON, or an integer of too many digits
        raise MessageError(shown(f"{name}: a header that is not JSON: {error}")) from None
    for field_ in ("run", "site"):
        value = getattr(built, field_, "")
        if value and not WORD.fullmatch(value):
            allowed = "letters, digits, dot, dash and underscore"
            raise MessageError(shown(f"{name}.{field_} = {value!r}: allowed are {allowed}"))
    return built


def send(connection: Connection, message: Request | Reply) -> None:
    """One message: the number of its blobs and its header, then each blob. Nothing is pickled on the way."""
    connection.send_bytes(f"{len(message.blobs)} {header(message)}".encode())
    for blob in message.blobs:
        connection.send_bytes(blob)


def receive(connection: Connection) -> tuple[str, tuple[bytes, ...]]:
    """The header's text and the blobs of one message. Raises: MessageError, EOFError if the other side is gone."""
    try:
        count, _, text = connection.recv_bytes(HEADER).decode().partition(" ")
        if not count.isdecimal() or int(count) > BLOBS:
            raise MessageError(f"{count[:20]!r} blobs: allowed are 0 to {BLOBS}")
        return text, tuple(connection.recv_bytes(BLOB) for _ in range(int(count)))
    except UnicodeDecodeError:
        raise MessageError("the header is not text in UTF-8") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise EOFError(str(error)) from None  # it ended within a message, or announced more than is allowed
