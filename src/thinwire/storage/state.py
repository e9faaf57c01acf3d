"""The state of a run between rounds: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from thinwire.adapters import Adapters
from thinwire.engine import Answer, Server
from thinwire.method import Context, Method
from thinwire.storage.clients import ClientFiles, ClientStore
from thinwire.storage.metrics import Line

Seconds = dict[str, float]
"""Seconds by purpose."""


@dataclass(frozen=True)
class Totals:
    """Sums over the rounds so far. Seconds of method are wall time, wire included; of wire, summed over threads."""

    bytes_up: int = 0
    bytes_down: int = 0
    uploads: int = 0
    deliveries: int = 0
    seconds: Seconds = field(default_factory=lambda: {"train": 0.0, "method": 0.0, "wire": 0.0, "eval": 0.0})


    def after(self, answers: Iterable[Answer], down: Collection[int], version: int, used: Seconds) -> Totals:
        """The totals after a round that began at `version` of the adapters. down: bytes sent to each client.

        A delivery of version 0 is the seed only, which FedIT would have sent just so.
        """
        sent = [answer.blob for answer in answers if answer.blob]
        return Totals(
            bytes_up=self.bytes_up + sum(map(len, sent)),
            bytes_down=self.bytes_down + sum(down),
            uploads=self.uploads + len(sent),
            deliveries=self.deliveries + sum(1 for size in down if size and version > 0),
            seconds={name: seconds + used.get(name, 0.0) for name, seconds in self.seconds.items()},
        )


@dataclass(frozen=True)
class State:
    """round: the next to play, from 0. held, held_version: what an up-to-date client has.

    best_round: counted from 1; 0 before the first evaluation.
    """

    round: int
    server: Server
    held: Adapters
    clients: ClientStore
    held_version: int | None = None
    totals: Totals = Totals()
    best_round: int = 0
    best_loss: float = float("inf")


def start(server: Server, clients: Iterable[str]) -> State:
    """The state before the first round: nobody holds anything yet."""
    return State(0, server, server.start, ClientStore(server.start, {name: ClientFiles() for name in clients}))


def monitored(
    state: State, losses: Mapping[str, float], more: Line, keep: Callable[[], object]
) -> tuple[State, Line]:
    """After an evaluation: the state with the best round, and the evaluation's line. losses: by domain or site.

    `keep` is called if this round is the best so far, by the mean loss.
    """
    loss = sum(losses.values()) / len(losses)
    if loss < state.best_loss:
        keep()
        state = replace(state, best_loss=loss, best_round=state.round)
    so_far = {"bytes_up": state.totals.bytes_up, "bytes_down": state.totals.bytes_down}
    return state, {"round": state.round, "evaluation": dict(losses), "loss": loss, **more, **so_far}


def result_of(method: Method, state: State) -> Adapters:
    """What the server's adapters are evaluated and exported as: the next download's content, where that is less."""
    return method.exchange.result(state.server.adapters, Context(state.round, state.server.seed))
