"""A run from recipe to summary: rounds with checkpoints, the references, the evaluation, the adapters."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.clock import clock, span
from thinwire.config import Recipe
from thinwire.engine import begin
from thinwire.evaluation import Scores
from thinwire.method import Method
from thinwire.methods import create
from thinwire.settings import ConfigError
from thinwire.simulation import checkpoint
from thinwire.simulation.directory import RunDirectory, write_json
from thinwire.simulation.rounds import Federation, Line, State, deliver, play, start
from thinwire.simulation.session import Session, method_of, open_session


class Watcher(Protocol):
    """Who is told how a run goes on."""

    def phase(self, text: str, rounds: int | None = None, done: int = 0) -> None: ...
    def line(self, line: Line) -> None: ...
    def round(self, state: State) -> None: ...
    def warn(self, text: str) -> None: ...


def run(recipe: Recipe, directory: RunDirectory, watcher: Watcher, resume: bool = False) -> dict[str, Any]:
    """Play the recipe to its end; the summary, also written to the directory. Raises: ConfigError, RunStopped."""
    began = time.perf_counter()
    watcher.phase("loading")
    if not resume:
        directory.check_free()
    session = open_session(recipe)
    if session.skipped:
        skipped = ", ".join(f"{name} {count}" for name, count in session.skipped.items())
        watcher.warn(f"records without room for a response: {skipped}")
    method = session.method()
    session.federation(method)  # names a client that does not exist before anything is written
    if not resume:
        directory.begin(recipe)
    with clock() as seconds:
        watcher.phase("scoring the base")
        with span("eval"):
            before = session.score(session.initial, session.tests)
        state, scores = play_all(session, method, directory, watcher)
        alone = alone_scores(session, method, directory, watcher, scores)
    summary = summarise(session, method, state, before, scores, alone)
    summary["seconds"]["eval"] += seconds["eval"]
    summary["seconds"]["total"] = time.perf_counter() - began
    summary["directory"] = str(directory.path)
    write_json(directory.path / "summary.json", summary)
    return summary


def play_all(
    session: Session, method: Method, directory: RunDirectory, watcher: Watcher
) -> tuple[State, Mapping[str, dict[str, Scores]]]:
    """All rounds of a method from where the directory stands, its adapters exported, and the test scores by owner."""
    federation = session.federation(method)
    state = first_state(session, federation, directory, watcher)
    watcher.phase(method.title, session.recipe.federation.rounds, state.round)
    while state.round < session.recipe.federation.rounds:
        lines: list[Line] = []
        state = play(federation, state, tell(lines, watcher))
        state, more = monitored(session, method, state, directory)
        directory.append(lines + more)
        checkpoint.save(state, directory.checkpoints)
        watcher.round(state)
    watcher.phase("scoring")
    finals = final_adapters(method, state)
    with span("eval"):
        scores = {owner: session.score(adapters, session.tests) for owner, adapters in finals.items()}
    for owner, adapters in finals.items():
        folder = directory.adapter if len(finals) == 1 else directory.adapter / owner
        peft_bridge.export(session.model, adapters, folder)
    return state, scores


def tell(lines: list[Line], watcher: Watcher) -> Callable[[Line], None]:
    """Keep every line, and show it."""

    def told(line: Line) -> None:
        lines.append(line)
        watcher.line(line)

    return told


def first_state(session: Session, federation: Federation, directory: RunDirectory, watcher: Watcher) -> State:
    """The newest usable checkpoint, or the state before round 0; the metrics are rewound to it."""
    seed = session.recipe.run.seed
    state = start(federation, begin(session.start, seed, session.initial))
    if checkpoint.checkpoints(directory.checkpoints):
        state, problems = checkpoint.load(directory.checkpoints, session.start, seed)
        for problem in problems:
            watcher.warn(f"checkpoint {problem}; continuing from round {state.round}")
    directory.rewind(state.round)
    return state


def monitored(session: Session, method: Method, state: State, directory: RunDirectory) -> tuple[State, list[Line]]:
    """After every `run.evaluate_every` rounds: the validation loss as a line, and the best round's adapter kept."""
    every = session.recipe.run.evaluate_every
    if not every or not method.federates or state.round % every:
        return state, []
    began = time.perf_counter()
    scores = session.score(state.server.adapters, session.monitor)
    loss = sum(score.loss for score in scores.values()) / len(scores)
    if loss < state.best_loss:
        peft_bridge.export(session.model, state.server.adapters, directory.best)
        state = replace(state, best_loss=loss, best_round=state.round - 1)
    totals = state.totals
    seconds = {**totals.seconds, "eval": totals.seconds["eval"] + time.perf_counter() - began}
    by_domain = {name: score.loss for name, score in scores.items()}
    bytes_so_far = {"bytes_up": totals.bytes_up, "bytes_down": totals.bytes_down}
    line = {"round": state.round - 1, "evaluation": by_domain, "loss": loss, **bytes_so_far}
    return replace(state, totals=replace(totals, seconds=seconds)), [line]


def final_adapters(method: Method, state: State) -> dict[str, Adapters]:
    """Who ends with which adapters: one entry, "global", unless clients keep their own."""
    if method.federates:
        return {"global": state.server.adapters}
    owned = {name: method.personal(state.held, client.memory) for name, client in state.clients.items()}
    return owned if len(owned) > 1 else {"global": next(iter(owned.values()))}


def alone_scores(
    session: Session, method: Method, directory: RunDirectory, watcher: Watcher, scores: Mapping[str, dict[str, Scores]]
) -> Mapping[str, dict[str, Scores]]:
    """Test scores of every client's own specialist, trained as long as the federated model; empty if not asked for."""
    if not method.federates and not method.pooled:
        return scores
    if not session.recipe.run.references or method.pooled:
        return {}
    directory.alone.path.mkdir(exist_ok=True)
    local = create("local")
    alone = replace(session, recipe=replace(session.recipe, run=replace(session.recipe.run, evaluate_every=0)))
    return play_all(alone, local, directory.alone, watcher)[1]


def summarise(
    session: Session,
    method: Method,
    state: State,
    before: Mapping[str, Scores],
    scores: Mapping[str, dict[str, Scores]],
    alone: Mapping[str, dict[str, Scores]],
) -> dict[str, Any]:
    """Everything a reader or a program wants to know of a finished run."""
    federation = session.federation(method)
    joined = [client for client in federation.clients if state.clients[client.name].version is not None]
    last = [deliver(federation, state, client) for client in joined]
    totals = state.totals
    bytes_up, bytes_down = totals.bytes_up, totals.bytes_down + sum(last)
    deliveries = totals.deliveries + sum(1 for size in last if size)
    dense = session.dense_bytes * (totals.uploads + deliveries)
    return {
        "method": method.name,
        "fields": {key: value for key, value in session.recipe.method.items() if key != "name"},
        "rounds": state.round,
        "clients": len(session.clients),
        "seed": session.recipe.run.seed,
        "trainable_parameters": session.start.parameters,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "bytes_dense_bf16": dense,
        "reduction": dense / (bytes_up + bytes_down) if bytes_up + bytes_down else None,
        "loss": compare(before, scores, alone, "loss"),
        "score": compare(before, scores, alone, "exact"),
        "token_accuracy": compare(before, scores, alone, "token_accuracy"),
        "best_round": state.best_round if state.best_round >= 0 else None,
        "seconds": {**totals.seconds, "total": 0.0},
        "threads": torch.get_num_threads(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "base": {"name": session.base.name, "fingerprint": session.base.fingerprint},
    }


def compare(
    before: Mapping[str, Scores],
    scores: Mapping[str, dict[str, Scores]],
    alone: Mapping[str, dict[str, Scores]],
    what: str,
) -> dict[str, dict[str, float]]:
    """One figure by domain: before, own (the domain's specialist), alone (mean over specialists), after."""
    table = {}
    for domain, score in before.items():
        row = {"before": getattr(score, what)}
        if domain in alone:
            row["own"] = getattr(alone[domain][domain], what)
        if alone:
            row["alone"] = mean([getattr(specialist[domain], what) for specialist in alone.values()])
        row["after"] = mean([getattr(final[domain], what) for final in scores.values()])
        table[domain] = row
    return table


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def longer(recipe: Recipe, rounds: int | None) -> Recipe:
    """The recipe of a resumed run with more rounds; its schedule keeps the horizon it began with."""
    if rounds is None:
        return recipe
    if rounds < recipe.federation.rounds:
        raise ConfigError(f"--rounds {rounds}: allowed is at least {recipe.federation.rounds}, as many as it had")
    horizon = recipe.train.horizon or recipe.federation.rounds
    return replace(
        recipe,
        train=replace(recipe.train, horizon=horizon),
        federation=replace(recipe.federation, rounds=rounds),
    )


def checked(recipe: Recipe) -> Recipe:
    """The recipe with its method checked, and with the number of threads that a resumed run must use too.

    Raises: ConfigError.
    """
    method_of(recipe)
    return replace(recipe, run=replace(recipe.run, threads=recipe.run.threads or torch.get_num_threads()))
