"""A round on one machine: the server's side and every client's, with the bytes between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from thinwire.adapters import Adapters
from thinwire.clock import clock, span
from thinwire.data import Example
from thinwire.engine import Answer, ClientSide, ClientState, Sending, Train, Work, exchange_of, plan, send, train
from thinwire.engine.rounds import AllUploadsRefused, ServerSide, collect, drops_out, messages, sample
from thinwire.method import Client, Context
from thinwire.settings import listed
from thinwire.storage.metrics import Line, line
from thinwire.storage.state import State


@dataclass(frozen=True, kw_only=True)
class Federation(ServerSide):
    """The server's side, and what the clients train on. examples: by client; train: runs jobs, in order."""

    examples: Mapping[str, Sequence[Example]]
    train: Train
    run: int
    steps_factor: int = 1

    def side(self, client: Client) -> ClientSide:
        """One of the clients."""
        return ClientSide(
            method=self.method,
            client=client,
            examples=self.examples[client.name],
            train=self.train,
            seed=self.seed,
            run=self.run,
            steps_factor=self.steps_factor,
            noise=self.noise,
        )


def play(federation: Federation, state: State, record: Callable[[Line], None]) -> State:
    """One round. Tells one line per client. Raises: AllUploadsRefused, Diverged."""
    ctx, server = Context(state.round, federation.seed), state.server
    with clock() as seconds:
        clients = sample(federation, ctx.round)
        with span("method"):
            sent = {client.name: messages_for(federation, state, client) for client in clients}
            held = received(federation, state, clients, sent)
        states = {client.name: replace(state.clients[client.name], version=server.version) for client in clients}
        present = [client for client in clients if not drops_out(federation, client, ctx)]
        with span("train"):
            jobs = [plan(federation.side(c), held[c.name], states[c.name], ctx) for c in present]
            works = dict(zip([c.name for c in present], train(jobs, federation.train), strict=True))
        with span("method"):
            sendings, refused = send_all(federation, present, states, works, ctx)
            blobs = {name: sending.blob for name, sending in sendings.items()}
            server, rejected = collect(federation, server, blobs, ctx.round)
    refused |= rejected
    sizes = {name: sum(map(len, blobs)) for name, blobs in sent.items()}
    answers = {name: answer_of(work, sendings.get(name)) for name, work in works.items()}
    for client in clients:
        name = client.name
        record(line(name, ctx.round, sizes[name], answers.get(name), refused.get(name)))
    if refused and len(refused) == len(present):
        reasons = listed((f"{name}: {reason}" for name, reason in refused.items()), 5, "; ")
        raise AllUploadsRefused(f"round {ctx.round + 1}: no upload could be used; {reasons}")
    states |= {name: sending.lost if name in refused else sending.counted for name, sending in sendings.items()}
    return replace(
        state,
        round=ctx.round + 1,
        server=server,
        held=exchange_of(federation.method).shared(held) or state.held,
        held_version=state.server.version if held else state.held_version,
        clients=state.clients.put(states),
        totals=state.totals.after(answers.values(), sizes.values(), state.server.version, seconds),
    )


def messages_for(federation: ServerSide, state: State, client: Client) -> list[bytes]:
    """What brings a client to the server's version."""
    return messages(federation, state.server, client, state.clients.version(client.name), state.round)


def received(
    federation: Federation, state: State, clients: Sequence[Client], sent: Mapping[str, Sequence[bytes]]
) -> dict[str, Adapters]:
    """What each client holds after its messages, as it decodes them."""
    last = state.held, state.held_version
    return exchange_of(federation.method).received(federation.method, state.server, clients, sent, last)


def send_all(
    federation: Federation,
    present: Sequence[Client],
    states: Mapping[str, ClientState],
    works: Mapping[str, Work],
    ctx: Context,
) -> tuple[dict[str, Sending], dict[str, str]]:
    """Every client's upload, and who has none to offer because its training left the finite numbers."""
    sendings, refused = {}, {}
    for client in present:
        try:
            sendings[client.name] = send(federation.side(client), states[client.name], works[client.name], ctx)
        except ValueError as error:
            refused[client.name] = str(error)
    return sendings, refused


def answer_of(work: Work, sending: Sending | None) -> Answer:
    """What the server hears of a client's round."""
    figures = work.shared.loss, work.shared.seconds
    return Answer(sending.blob, sending.density, *figures) if sending else Answer(b"", 0.0, *figures)


def last_deliveries(federation: ServerSide, state: State) -> list[int]:
    """Bytes that bring each client that ever joined to the server's version; alike ones are sent alike."""
    sizes: dict[object, int] = {}
    found = []
    for client in federation.clients:
        version = state.clients.version(client.name)
        if version is None:
            continue
        alike = exchange_of(federation.method).alike(client, version)
        if alike not in sizes:
            sizes[alike] = sum(map(len, messages_for(federation, state, client)))
        found.append(sizes[alike])
    return found
