"""The references, `local` and `centralised`, in a run: who trains on what, and who ends with which adapters.

The one place in the simulation that asks whether a run is a federation or a reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

from thinwire.adapters import Adapters
from thinwire.config import FederationConfig
from thinwire.data import Example
from thinwire.evaluation.figures import OutcomesByDomain
from thinwire.method import Method
from thinwire.methods.reference import Centralised, Local
from thinwire.storage.state import State, result_of

EVERYONE = "everyone"
GLOBAL = "global"


@dataclass(frozen=True)
class Assignment:
    """Who trains on which examples, by the settings of rounds and clients; steps_factor: as many clients' steps."""

    examples: Mapping[str, Sequence[Example]]
    config: FederationConfig
    steps_factor: int = 1


@singledispatch
def shares(method: Method, clients: Mapping[str, Sequence[Example]], config: FederationConfig) -> Assignment:
    """Every client trains on its own examples; `centralised` on all of them in one place."""
    return Assignment(clients, config)


@shares.register
def _(method: Centralised, clients: Mapping[str, Sequence[Example]], config: FederationConfig) -> Assignment:
    owner = EVERYONE if len(clients) > 1 else next(iter(clients))
    together = {owner: [example for name in clients for example in clients[name]]}
    return Assignment(together, FederationConfig(rounds=config.rounds), config.clients_per_round or len(clients))


@singledispatch
def global_result(method: Method, state: State) -> Adapters | None:
    """The global adapters as they are evaluated and exported; None where there are none."""
    return result_of(method, state)


@global_result.register
def _(method: Local, state: State) -> Adapters | None:
    return None


@singledispatch
def final_adapters(method: Method, state: State) -> Iterator[tuple[str, Adapters]]:
    """Who ends with which adapters, one after another: GLOBAL, unless several clients keep their own."""
    yield GLOBAL, result_of(method, state)


@final_adapters.register
def _(method: Local, state: State) -> Iterator[tuple[str, Adapters]]:
    for name, client in state.clients.items():
        yield name if len(state.clients) > 1 else GLOBAL, method.own(state.held, client.memory)


@singledispatch
def alone(method: Method, finals: Mapping[str, OutcomesByDomain]) -> Mapping[str, OutcomesByDomain] | None:
    """What is known already of training alone, by client; None: each client is to be trained alone beside the run."""
    return None


@alone.register
def _(method: Local, finals: Mapping[str, OutcomesByDomain]) -> Mapping[str, OutcomesByDomain] | None:
    return finals


@alone.register
def _(method: Centralised, finals: Mapping[str, OutcomesByDomain]) -> Mapping[str, OutcomesByDomain] | None:
    return {}
