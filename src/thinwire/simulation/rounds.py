"""The round loop: who takes part, what each is sent, what each trains, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from thinwire.adapters import Adapters
from thinwire.clock import clock, span
from thinwire.config import FederationConfig
from thinwire.data import Example
from thinwire.engine import (
    ClientState,
    Sending,
    Server,
    Upload,
    aggregate,
    exchange_of,
    message,
    refuse_non_finite,
    send,
)
from thinwire.method import Client, Context, Method, Plan
from thinwire.privacy.noise import Noise, Sum
from thinwire.randomness import derive, permutation, seeded_mask, uniform
from thinwire.server_optimizer import PLAIN, ServerConfig
from thinwire.settings import listed
from thinwire.storage.directory import Line
from thinwire.storage.state import Seconds, State, Totals
from thinwire.training import Job, Trained

Worked = tuple[Plan, Trained, Trained | None]
"""What a client trained for all, with its plan, and what it trained for itself."""



class RunStopped(RuntimeError):
    """A round cannot be completed; the last checkpoint is kept."""


class AllRefused(RunStopped):
    """No client's upload of a round could be used."""


class Diverged(RunStopped):
    """What the server made of a round's uploads is not finite."""


@dataclass(frozen=True)
class Federation:
    """What does not change over a run. examples: client -> its training examples; train: runs jobs, in order."""

    method: Method
    config: FederationConfig
    clients: Sequence[Client]
    examples: Mapping[str, Sequence[Example]]
    train: Callable[[Sequence[Job]], Sequence[Trained]]
    seed: int
    steps_factor: int = 1
    server: ServerConfig = PLAIN
    noise: Noise | None = None

    def noise_on(self, place: str) -> Noise | None:
        """The noise, if this is where it is put."""
        return self.noise if self.noise and self.noise.place == place else None


def play(federation: Federation, state: State, tell: Callable[[Line], None]) -> State:
    """One round. Tells one line per client. Raises: AllRefused, Diverged."""
    ctx, server = Context(state.round, federation.seed), state.server
    with clock() as seconds:
        clients = taking_part(federation, ctx.round)
        with span("method"):
            messages = {client.name: messages_for(federation, state, client) for client in clients}
            held = received(federation, state, clients, messages)
            delivered = {name: sum(map(len, blobs)) for name, blobs in messages.items()}
        states = {client.name: replace(state.clients[client.name], version=server.version) for client in clients}
        present = [client for client in clients if not drops_out(federation, client, ctx)]
        with span("train"):
            trained = train(federation, present, held, states, ctx)
        with span("method"):
            sendings, refused = send_all(federation, present, states, trained, ctx)
            server, rejected = collect(federation, server, present, sendings, ctx)
    refused |= rejected
    for client in clients:
        tell(line(client.name, ctx, delivered, trained, sendings, refused))
    if refused and len(refused) == len(present):
        reasons = listed((f"{name}: {reason}" for name, reason in refused.items()), 5, "; ")
        raise AllRefused(f"round {ctx.round}: no upload could be used; {reasons}")
    states |= {name: sending.lost if name in refused else sending.counted for name, sending in sendings.items()}
    return replace(
        state,
        round=ctx.round + 1,
        server=server,
        held=exchange_of(federation.method).shared(held) or state.held,
        held_version=state.server.version if held else state.held_version,
        clients=state.clients.put(states),
        totals=add_totals(state.totals, sendings, delivered, state.server.version, seconds),
    )


def result_of(method: Method, state: State) -> Adapters:
    """What the server's adapters are judged and exported as: what the next download would hold, where that is less."""
    return method.exchange.result(state.server.adapters, Context(state.round, state.server.run))


def taking_part(federation: Federation, number: int) -> list[Client]:
    """The clients of a round, in order: those that have joined, sampled if the recipe says so.

    Privacy's seed draws them, where there is one: who cannot foretell the noise must not foretell the sample either.
    """
    present, count = joined(federation, number), expected_count(federation, number)
    if count == len(present):
        return present
    seed = derive(federation.noise.seed if federation.noise else federation.seed, number, "sample")
    if federation.config.sampling == "poisson":
        return [present[index] for index in seeded_mask(seed, len(present), count / len(present)).tolist()]
    return [present[index] for index in sorted(permutation(seed, len(present))[:count])]


def joined(federation: Federation, number: int) -> list[Client]:
    """The clients that may take part in a round."""
    return [client for client in federation.clients if federation.config.join.get(client.name, 0) <= number]


def expected_count(federation: Federation, number: int) -> int:
    """How many of them the recipe asks for, or expects where each is drawn by itself."""
    present, count = len(joined(federation, number)), federation.config.clients_per_round
    return present if count is None else min(count, present)


def messages_for(federation: Federation, state: State, client: Client) -> list[bytes]:
    """What brings a client to the server's version."""
    ctx = Context(state.round, federation.seed)
    return message(federation.method, state.server, client, state.clients.version(client.name), ctx)


def last_deliveries(federation: Federation, state: State) -> list[int]:
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


def received(
    federation: Federation, state: State, clients: Sequence[Client], messages: Mapping[str, Sequence[bytes]]
) -> dict[str, Adapters]:
    """What each client holds after its messages, as it decodes them."""
    last = state.held, state.held_version
    return exchange_of(federation.method).received(federation.method, state.server, clients, messages, last)


def drops_out(federation: Federation, client: Client, ctx: Context) -> bool:
    """Whether the client vanishes after its download and never uploads in this round."""
    return float(uniform(ctx.seed_for("drop", client.name), 1)) < federation.config.drop


def train(
    federation: Federation,
    present: Sequence[Client],
    held: Mapping[str, Adapters],
    states: Mapping[str, ClientState],
    ctx: Context,
) -> dict[str, Worked]:
    """What each client present trained, with its plan, and what it trained for itself."""
    jobs: dict[tuple[str, str], Job] = {}
    for client in present:
        method, view, memory = federation.method, held[client.name], states[client.name].memory
        plan = replace(method.plan(view, client, memory, ctx), length=method.length(ctx))
        own = method.personal.start(view, memory, ctx) if method.personal else None
        shared = Job(
            plan=plan,
            examples=federation.examples[client.name],
            seed=derive(federation.seed, "train", client.name),
            round=ctx.round,
            steps_factor=federation.steps_factor,
            optimizer=states[client.name].optimizer or None,
        )
        jobs[client.name, "shared"] = shared
        if own is not None:
            seed = derive(federation.seed, "train", client.name, "own")
            jobs[client.name, "own"] = replace(shared, plan=replace(plan, start=own), seed=seed, optimizer=None)
    done = dict(zip(jobs, federation.train(list(jobs.values())), strict=True))
    return {
        client.name: (jobs[client.name, "shared"].plan, done[client.name, "shared"], done.get((client.name, "own")))
        for client in present
    }


def send_all(
    federation: Federation,
    present: Sequence[Client],
    states: Mapping[str, ClientState],
    trained: Mapping[str, Worked],
    ctx: Context,
) -> tuple[dict[str, Sending], dict[str, str]]:
    """Every client's upload, and who has none to offer because its training left the finite numbers."""
    sendings, refused = {}, {}
    for client in present:
        plan, done, own = trained[client.name]
        state = replace(states[client.name], optimizer=done.optimizer)
        try:
            if not math.isfinite(done.loss):
                raise ValueError("the loss is not finite")
            refuse_non_finite(dict(done.adapters.items()))
            if own is not None:
                refuse_non_finite(dict(own.adapters.items()))
            noise = federation.noise_on("upload")
            sendings[client.name] = send(
                federation.method, client, state, plan, done.adapters, ctx, noise, own.adapters if own else None
            )
        except ValueError as error:
            refused[client.name] = str(error)
    return sendings, refused


def collect(
    federation: Federation, server: Server, present: Sequence[Client], sendings: Mapping[str, Sending], ctx: Context
) -> tuple[Server, dict[str, str]]:
    """The server after the uploads, and those it refused. Raises: Diverged."""
    noise, cohort = federation.noise_on("sum"), expected_count(federation, ctx.round)
    noised = Sum(noise, cohort) if noise and cohort else None
    offered = {name: sending.blob for name, sending in sendings.items() if sending.blob}
    if not (offered or noised):
        return server, {}
    weights = {c.name: float(c.examples) if federation.config.weights == "examples" else 1.0 for c in present}
    ranks = {client.name: client.rank for client in present}
    uploads = [Upload(name, weights[name], blob, ranks[name]) for name, blob in offered.items()]
    try:
        server, outcome = aggregate(federation.method, server, uploads, ctx, federation.server, noised)
    except ValueError as error:
        text = f"round {ctx.round}: the server's change is no good: {error}; a smaller learning rate may help"
        raise Diverged(text) from None
    return server, dict(outcome.refused)


def line(
    name: str,
    ctx: Context,
    delivered: Mapping[str, int],
    trained: Mapping[str, Worked],
    sendings: Mapping[str, Sending],
    refused: Mapping[str, str],
) -> Line:
    """What happened to one client in one round."""
    done = trained[name][1] if name in trained else None
    status = "dropped out" if done is None else f"refused: {refused[name]}" if name in refused else "counted"
    return {
        "round": ctx.round,
        "client": name,
        "loss": done.loss if done and math.isfinite(done.loss) else None,
        "bytes_up": len(sendings[name].blob) if name in sendings else 0,
        "bytes_down": delivered[name],
        "seconds": done.seconds if done else 0.0,
        "density": sendings[name].density if name in sendings else 0.0,
        "status": status,
    }


def add_totals(
    totals: Totals, sendings: Mapping[str, Sending], delivered: Mapping[str, int], version: int, used: Seconds
) -> Totals:
    """The totals after a round. A delivery of version 0 is the seed only, which FedIT would have sent just so."""
    sent = [sending.blob for sending in sendings.values() if sending.blob]
    return Totals(
        bytes_up=totals.bytes_up + sum(map(len, sent)),
        bytes_down=totals.bytes_down + sum(delivered.values()),
        uploads=totals.uploads + len(sent),
        deliveries=totals.deliveries + sum(1 for size in delivered.values() if size and version > 0),
        seconds={name: seconds + used.get(name, 0.0) for name, seconds in totals.seconds.items()},
    )
