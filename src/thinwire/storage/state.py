"""The state of a run between rounds: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from thinwire.adapters import Adapters
from thinwire.engine import Server
from thinwire.storage.clients import ClientStore, Saved

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


@dataclass(frozen=True)
class State:
    """round: the next to play; held, held_version: what an up-to-date client has."""

    round: int
    server: Server
    held: Adapters
    clients: ClientStore
    held_version: int | None = None
    totals: Totals = Totals()
    best_round: int = -1
    best_loss: float = float("inf")


def start(server: Server, clients: Iterable[str]) -> State:
    """The state before the first round: nobody holds anything yet."""
    return State(0, server, server.start, ClientStore(server.start, {name: Saved() for name in clients}))
