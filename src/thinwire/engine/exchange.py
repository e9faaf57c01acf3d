"""How the server's adapters reach the clients: the one place that asks which exchange a method has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from thinwire.adapters import Adapters, Change, same
from thinwire.clock import span
from thinwire.compress import StepContext, compress, decode
from thinwire.compress.values import steps_down
from thinwire.engine.checks import expected
from thinwire.engine.versions import Server, prune
from thinwire.method import Client, Context, Method
from thinwire.parts import Changes, Nothing, States
from thinwire.payload import Payload
from thinwire.wire import WireError, pack, unpack


class Broadcast:
    """One change for all. Who missed some is sent them in order, or the state, whichever is smaller."""

    def message(self, method: Method, server: Server, client: Client, version: int | None, ctx: Context) -> list[bytes]:
        """What brings a client from `version` (None: it holds nothing) to the server's."""
        numbers = range(0 if version is None else version + 1, server.version + 1)
        if any(number not in server.broadcasts for number in numbers):
            return [server.state]
        missed = [server.broadcasts[number] for number in numbers]
        size = sum(map(len, missed))
        return missed if size <= server.state_bounds[0] or size <= len(server.state) else [server.state]

    def start(self, method: Method, start: Adapters, client: Client) -> Adapters:
        """What a state message builds on, of what the seed gives."""
        return start

    def publish(self, method: Method, server: Server, change: Change, ctx: Context) -> tuple[Server, float]:
        """The server after the change as everyone decodes it, with its message, and the message's density."""
        context = StepContext(server.adapters, server.adapters.add(change), ctx.seed_for("down"))
        steps = (*method.down(ctx), *steps_down(method.values))
        leaves, residual = compress(change, steps, context, server.residual, method.feedback)
        payload = Payload("change", server.version, server.run, leaves)
        with span("wire"):
            blob = pack(payload)
            sent = decode(unpack(blob, expected(method, server.adapters)).leaves)
        broadcasts = {**server.broadcasts, payload.version: blob}
        after = replace(server, adapters=server.adapters.add(sent), residual=residual, broadcasts=broadcasts)
        return prune(after), payload.density

    def received(
        self,
        method: Method,
        server: Server,
        clients: Sequence[Client],
        messages: Mapping[str, Sequence[bytes]],
        last: tuple[Adapters, int | None],
    ) -> dict[str, Adapters]:
        """What each client holds after its messages, where one machine plays all of them.

        All hold the server's adapters, so they are decoded once, for one who missed nothing since `last`.
        """
        if not clients:
            return {}
        blobs = self.message(method, server, clients[0], last[1], Context(0, 0))
        held, _ = receive(method, clients[0], last, blobs, server.start, server.run)
        assert same(held, server.adapters), "client and server hold different adapters"
        return {client.name: held for client in clients}

    def shared(self, held: Mapping[str, Adapters]) -> Adapters | None:
        """What all that are up to date hold; None if nobody's is another's."""
        return next(iter(held.values()), None)

    def alike(self, client: Client, version: int) -> object:
        """Clients for whom this is the same are sent messages of the same size."""
        return version

    def pack(self, payload: Payload) -> bytes:
        """An upload's bytes."""
        with span("wire"):
            return pack(payload)


class OneEach(Broadcast):
    """A state for each client in each of its rounds; nothing is logged, and nobody catches up."""

    def message(self, method: Method, server: Server, client: Client, version: int | None, ctx: Context) -> list[bytes]:
        """What this client holds of the global adapters: all that it trains or that moved, compressed."""
        held, start = (method.rule.cut(adapters, client.rank) for adapters in (server.adapters, server.start))
        keys = [key for key, _ in held.items() if key[1] in method.sends(ctx) or key in server.moved]
        context = StepContext(start, held, ctx.seed_for("state", client.name))
        steps = (*states_of(method).steps(client, ctx), *steps_down(method.values))
        leaves, _ = compress({key: held[key] for key in keys}, steps, context, {})
        with span("wire"):
            return [pack(Payload("state", server.version, server.run, leaves))]

    def start(self, method: Method, start: Adapters, client: Client) -> Adapters:
        return method.rule.cut(start, client.rank)

    def publish(self, method: Method, server: Server, change: Change, ctx: Context) -> tuple[Server, float]:
        adapters = states_of(method).settle(server.adapters.add(change), ctx)
        return replace(server, adapters=adapters, broadcasts={}), 1.0

    def received(
        self,
        method: Method,
        server: Server,
        clients: Sequence[Client],
        messages: Mapping[str, Sequence[bytes]],
        last: tuple[Adapters, int | None],
    ) -> dict[str, Adapters]:
        start, run = server.start, server.run
        return {c.name: receive(method, c, (start, None), messages[c.name], start, run)[0] for c in clients}

    def shared(self, held: Mapping[str, Adapters]) -> Adapters | None:
        return None

    def alike(self, client: Client, version: int) -> object:
        return client.rank, client.density


class Silence(Broadcast):
    """Nothing travels: every client has the server's start on its own machine."""

    def message(self, method: Method, server: Server, client: Client, version: int | None, ctx: Context) -> list[bytes]:
        return []

    def received(
        self,
        method: Method,
        server: Server,
        clients: Sequence[Client],
        messages: Mapping[str, Sequence[bytes]],
        last: tuple[Adapters, int | None],
    ) -> dict[str, Adapters]:
        return {client.name: server.adapters for client in clients}

    def pack(self, payload: Payload) -> bytes:
        return b""


PLAYED = ((Nothing, Silence()), (States, OneEach()), (Changes, Broadcast()))
"""How the engine plays each exchange."""


def exchange_of(method: Method) -> Broadcast:
    """How the engine plays the method's exchange."""
    return next(played for kind, played in PLAYED if isinstance(method.exchange, kind))


def states_of(method: Method) -> States:
    assert isinstance(method.exchange, States)
    return method.exchange


def message(method: Method, server: Server, client: Client, version: int | None, ctx: Context) -> list[bytes]:
    """What brings a client from `version` (None: it holds nothing) to the server's; or a state of its own."""
    return exchange_of(method).message(method, server, client, version, ctx)


def receive(
    method: Method,
    client: Client,
    last: tuple[Adapters, int | None],
    blobs: Sequence[bytes],
    start: Adapters,
    run: int,
) -> tuple[Adapters, int]:
    """What the client holds after the server's messages, applied in order, and its version. last: both, before.

    `start` is what the seed gives and a state message builds on. Changes that are in `held` already are passed over: a
    server that missed the last answer sends them again. Raises: WireError for bytes that do not fit.
    """
    (held, version), own = last, exchange_of(method).start(method, start, client)
    for blob in blobs:
        with span("wire"):
            payload = unpack(blob, expected(method, own, run=run))
        if payload.kind == "change" and version is not None and payload.version <= version:
            continue
        if payload.kind == "change" and (version is None or payload.version != version + 1):
            raise WireError(f"a change to version {payload.version} cannot follow version {version}")
        tensors = decode(payload.leaves)
        held = own.put(tensors) if payload.kind == "state" else held.add(tensors)
        version = payload.version
    if version is None:
        raise WireError("no message was sent to a client that holds nothing")
    return held, version
