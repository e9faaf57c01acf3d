"""Each client's own adapters at the end of a run: made, outcomes on its own held-out examples, exported on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.engine import ClientSide
from thinwire.engine.jobs import Job
from thinwire.evaluation import evaluate
from thinwire.evaluation.figures import OutcomesByDomain
from thinwire.method import Context, Method, Own, Plan
from thinwire.randomness import derive, permutation
from thinwire.session.loaded import Session
from thinwire.simulation.federated import federated
from thinwire.simulation.reference import global_result
from thinwire.storage.directory import RunDirectory
from thinwire.storage.state import State, result_of
from thinwire.training.trainer import Trainer

TUNED = "tuned"
"""The column of the global adapter after some local steps."""


@dataclass
class PersonalResults:
    """outcomes: column -> client -> outcomes; figures: client -> what its own adapters say of how they came about."""

    outcomes: dict[str, dict[str, OutcomesByDomain]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def has_personal(session: Session, method: Method, state: State) -> bool:
    """Whether clients end with adapters besides the global ones."""
    if global_result(method, state) is None:
        return False
    return method.personal is not None or session.recipe.run.tune_steps > 0


def evaluate_personal(
    session: Session, method: Method, state: State, directory: RunDirectory, progress: Callable[[int], None]
) -> PersonalResults:
    """Every client's own adapters, on its own held-out examples; `progress` hears how many examples were evaluated."""
    found, federation = PersonalResults(), federated(session, method)
    for client in federation.clients:
        for column, own in own_adapters(session, federation.side(client), state):
            outcomes = session.evaluate(own.adapters, session.tests, client.name, progress)
            found.outcomes.setdefault(column, {})[client.name] = outcomes
            found.figures.setdefault(client.name, {}).update(own.figures)
            if session.recipe.run.export_clients and column != TUNED:
                peft_bridge.export(session.model, own.adapters, directory.client(client.name) / column)
    return found


def own_adapters(session: Session, side: ClientSide, state: State) -> Iterator[tuple[str, Own]]:
    """By column: the method's, for a client that took part, and the global adapter tuned locally, if asked for."""
    view, memory = state.server.adapters, state.clients[side.client.name].memory
    if memory and side.method.personal:
        score = partial(loss_on_some, session, side)
        yield from side.method.personal.ends(view, memory, score).items()
    if session.recipe.run.tune_steps:
        yield TUNED, Own(tuned(session, side, result_of(side.method, state), state.round))


def loss_on_some(session: Session, side: ClientSide, adapters: Adapters, count: int) -> float:
    """Mean loss on `count` of the client's own training examples, the same ones each time."""
    order = permutation(derive(side.seed, "fusion", side.client.name), len(side.examples))[:count]
    return evaluate(session.base, session.model, adapters, [side.examples[index] for index in order]).loss


def tuned(session: Session, side: ClientSide, adapters: Adapters, number: int) -> Adapters:
    """The adapters after `run.tune_steps` local steps at the recipe's peak rate."""
    steps = session.recipe.run.tune_steps
    config = replace(session.recipe.train, steps=steps, epochs=None, schedule="constant", warmup=0)
    trainer = Trainer(session.base, session.model, config, 1)
    plan = Plan(adapters, side.method.trains(Context(number, side.seed)))
    seed = derive(side.seed, "tune", side.client.name)
    return trainer.train([Job(plan, side.examples, seed, 0)])[0].adapters


def with_figures(rows: dict[str, Any], figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The rows of clients.json with what the clients' own adapters say."""
    said = {name: {"own_adapters": own} for name, own in figures.items() if own}
    return {name: {**row, **said.get(name, {})} for name, row in rows.items()}
