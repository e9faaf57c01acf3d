"""Each client's own adapters at the end of a run: made, judged on its own held-out examples, exported on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.evaluation import evaluate
from thinwire.method import Client, Context, Method, Own, Plan
from thinwire.randomness import derive, permutation
from thinwire.simulation.figures import Judged
from thinwire.simulation.reference import global_result
from thinwire.simulation.rounds import Federation, result_of
from thinwire.simulation.session import Session
from thinwire.storage.directory import RunDirectory
from thinwire.storage.state import State
from thinwire.training import Job, Trainer

TUNED = "tuned"
"""The column of the global adapter after some local steps."""


@dataclass
class Found:
    """judged: column -> client -> outcomes; figures: client -> what its own adapters say of how they came about."""

    judged: dict[str, dict[str, Judged]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def has_personal(session: Session, method: Method, state: State) -> bool:
    """Whether clients end with adapters besides the global ones."""
    if global_result(method, state) is None:
        return False
    return method.personal is not None or session.recipe.run.tune_steps > 0


def judge_personal(
    session: Session, method: Method, state: State, directory: RunDirectory, tell: Callable[[int], None]
) -> Found:
    """Every client's own adapters, on its own held-out examples; `tell` hears how many examples were scored."""
    found, federation = Found(), session.federation(method)
    for client in federation.clients:
        for column, own in own_adapters(session, federation, state, client):
            judged = session.judge(own.adapters, session.tests, client.name, tell)
            found.judged.setdefault(column, {})[client.name] = judged
            found.figures.setdefault(client.name, {}).update(own.figures)
            if session.recipe.run.export_clients and column != TUNED:
                peft_bridge.export(session.model, own.adapters, directory.client(client.name) / column)
    return found


def own_adapters(
    session: Session, federation: Federation, state: State, client: Client
) -> Iterator[tuple[str, Own]]:
    """By column: the method's, for a client that took part, and the global adapter tuned locally, if asked for."""
    view, memory = state.server.adapters, state.clients[client.name].memory
    if memory and federation.method.personal:
        score = partial(loss_on_some, session, federation, client)
        yield from federation.method.personal.ends(view, memory, score).items()
    if steps := session.recipe.run.tune_steps:
        whole = result_of(federation.method, state)
        yield TUNED, Own(tuned(session, federation, whole, client, state.round, steps))


def loss_on_some(session: Session, federation: Federation, client: Client, adapters: Adapters, count: int) -> float:
    """Mean loss on `count` of the client's own training examples, the same ones each time."""
    examples = federation.examples[client.name]
    order = permutation(derive(federation.seed, "fusion", client.name), len(examples))[:count]
    return evaluate(session.base, session.model, adapters, [examples[index] for index in order]).loss


def tuned(
    session: Session, federation: Federation, adapters: Adapters, client: Client, number: int, steps: int
) -> Adapters:
    """The adapters after some local steps at the recipe's peak rate."""
    config = replace(session.recipe.train, steps=steps, epochs=None, schedule="constant", warmup=0)
    trainer = Trainer(session.base, session.model, config, 1)
    plan = Plan(adapters, federation.method.trains(Context(number, federation.seed)))
    seed = derive(federation.seed, "tune", client.name)
    return trainer.train([Job(plan, federation.examples[client.name], seed, 0)])[0].adapters


def with_figures(rows: dict[str, Any], figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The rows of clients.json with what the clients' own adapters say."""
    said = {name: {"own_adapters": own} for name, own in figures.items() if own}
    return {name: {**row, **said.get(name, {})} for name, row in rows.items()}
