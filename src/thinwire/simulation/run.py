"""A run from recipe to summary: rounds with checkpoints, the references, the evaluation, the adapters."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from thinwire import peft_bridge
from thinwire.clock import clock, span
from thinwire.config import Recipe
from thinwire.data.encode import skipped_words
from thinwire.engine import begin
from thinwire.evaluation.figures import OutcomesByDomain, by_client, by_metric, client_rows, figures
from thinwire.identity import check_same
from thinwire.method import Method
from thinwire.methods import create
from thinwire.own_methods import absolute
from thinwire.peft_bridge import ExportedAdapter
from thinwire.privacy.config import PrivacyConfig
from thinwire.session.loaded import Session, open_session
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError, listed
from thinwire.simulation.federated import federated
from thinwire.simulation.personal import PersonalResults, evaluate_personal, has_personal, with_figures
from thinwire.simulation.reference import GLOBAL, alone, final_adapters, global_result
from thinwire.simulation.releases import guarantee, releases_of, resolved, run_ledger
from thinwire.simulation.rounds import Federation, last_deliveries, play
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory, write_json
from thinwire.storage.ledger import draw_secret, keep_secret, read_secret
from thinwire.storage.metrics import Line
from thinwire.storage.state import State, monitored, start
from thinwire.storage.summary import About, summarise


class Watcher(Protocol):
    """Who hears how a run goes on."""

    def phase(self, text: str, rounds: int | None = None, done: int = 0) -> None: ...
    def scoring(self, text: str, examples: int | None) -> None: ...
    def evaluated(self, examples: int) -> None: ...
    def line(self, line: Line) -> None: ...
    def spent(self, epsilon: float, delta: float) -> None: ...
    def round(self, state: State) -> None: ...
    def warn(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...


def run(
    recipe: Recipe, directory: RunDirectory, watcher: Watcher, resume: bool = False, accepted: Collection[str] = ()
) -> dict[str, Any]:
    """Play the recipe to its end; the summary, also written to the directory. accepted: changes since the checkpoint.

    Raises: ConfigError, RunStopped.
    """
    began = time.perf_counter()
    watcher.phase("loading")
    if not resume:
        directory.check_free()
    session = open_session(recipe)
    if session.left_out:
        watcher.warn(f"left out: {listed(session.left_out, between='; ')}")
    watcher.note(peft_bridge.coverage(session.model))
    if session.skipped:
        watcher.warn(f"skipped: {skipped_words(session.skipped)}")
    method = session.method()
    session = with_privacy(session, method, directory, resume)
    if checkpoint.checkpoints(directory.checkpoints):
        before = checkpoint.identity(directory.checkpoints)
        for text in check_same(before, session.identity, accepted, str(directory.path)):
            watcher.warn(text)
    if alone(method, {}) is None and recipe.run.references is None and not session.references:
        watcher.warn(f"{len(session.clients)} clients are not also trained alone; run.references = true would do it")
    federated(session, method)  # names a client that does not exist before anything is written
    if not resume:
        directory.begin(session.recipe)
        if session.secret is not None:
            keep_secret(directory.checkpoints, session.secret)
    with clock() as seconds:
        watcher.scoring("scoring the base", session.tests.count())
        with span("eval"):
            before = session.evaluate(session.initial, session.tests, progress=watcher.evaluated)
        played = play_all(session, method, directory, watcher)
        state = played.state
        specialists = evaluate_specialists(session, method, played, directory, watcher)
        own = PersonalResults()
        if has_personal(session, method, state):
            watcher.scoring("scoring each client's own adapters", None)
            own = evaluate_personal(session, method, state, directory, watcher.evaluated)
    found = figures(session.tests, before, played.outcomes, specialists, session.whole, own.outcomes)
    write_json(directory.path / "clients.json", with_figures(client_rows(found, session.metrics), own.figures))
    last = last_deliveries(federated(session, method), state)
    summary = summarise(about(session, method, state, played.export), state, found, last)
    summary["seconds"]["eval"] += seconds["eval"]
    summary["seconds"]["total"] = time.perf_counter() - began
    summary["directory"] = str(directory.path)
    write_json(directory.path / "summary.json", summary)
    return summary


@dataclass(frozen=True)
class MethodRun:
    """All rounds of a method. outcomes: of its adapters, by owner; export: what was exported of the global ones."""

    state: State
    outcomes: Mapping[str, OutcomesByDomain]
    export: ExportedAdapter | None


def play_all(session: Session, method: Method, directory: RunDirectory, watcher: Watcher) -> MethodRun:
    """Play all rounds from where the directory stands; export and evaluate the adapters."""
    federation = federated(session, method)
    recipe = session.recipe
    state = first_state(session, federation, directory, watcher)
    ledger = run_ledger(recipe, federation, state.round)
    watcher.phase(method.title, recipe.federation.rounds, state.round)
    while state.round < recipe.federation.rounds:
        releases = releases_of(federation, recipe.train, range(state.round, state.round + 1))
        if ledger and (why := ledger.over(*releases)):
            watcher.warn(f"stopped after round {state.round}: {why}")
            break
        lines: list[Line] = []
        state = play(federation, state, keep(lines, watcher))
        state, more = evaluate_round(session, method, state, directory)
        if ledger:
            ledger = ledger.add(releases)
            spent = {"epsilon": ledger.epsilon, "delta": ledger.delta}
            more.append({"round": state.round, **spent})
            watcher.spent(**spent)
        directory.append(lines + more)
        state = checkpoint.save(state, directory.checkpoints, session.identity)
        watcher.round(state)
    outcomes: dict[str, OutcomesByDomain] = {}
    exports: dict[str, ExportedAdapter] = {}
    for owner, adapters in final_adapters(method, state):
        whose = None if owner == GLOBAL or session.whole else owner
        watcher.scoring("scoring" if owner == GLOBAL else f"scoring {owner}", session.tests.count(whose))
        with span("eval"):
            outcomes[owner] = session.evaluate(adapters, session.tests, whose, watcher.evaluated)
        place = directory.adapter if owner == GLOBAL else directory.adapter_of(owner)
        exports[owner] = peft_bridge.export(session.model, adapters, place, recipe.run.export_rank)
    return MethodRun(state, outcomes, exports[GLOBAL] if global_result(method, state) else None)


def keep(lines: list[Line], watcher: Watcher) -> Callable[[Line], None]:
    """Keep every line, and show it."""

    def record(line: Line) -> None:
        lines.append(line)
        watcher.line(line)

    return record


def first_state(session: Session, federation: Federation, directory: RunDirectory, watcher: Watcher) -> State:
    """The newest usable checkpoint, or the state before the first round; the metrics are rewound to it."""
    seed, run = federation.seed, federation.run
    state = start(begin(session.start, seed, run, session.initial), (client.name for client in federation.clients))
    if checkpoint.checkpoints(directory.checkpoints):
        state, problems = checkpoint.load(directory.checkpoints, session.start, seed, run)
        for problem in problems:
            watcher.warn(f"checkpoint {problem}; continuing from round {state.round + 1}")
        state = replace(state, clients=state.clients.of(client.name for client in federation.clients))
    directory.rewind(state.round)
    return state


def evaluate_round(session: Session, method: Method, state: State, directory: RunDirectory) -> tuple[State, list[Line]]:
    """After every `run.evaluate_every` rounds: the validation figures as a line, and the best round's adapter kept."""
    every = session.recipe.run.evaluate_every
    adapters = global_result(method, state)
    if not every or adapters is None or state.round % every:
        return state, []
    began = time.perf_counter()
    outcomes = session.evaluate(adapters, session.monitor)
    scores = {domain: outcomes.scores() for domain, outcomes in outcomes.items()}
    owners = by_client(outcomes, session.monitor)
    more = {
        "domains": {name: by_metric(score, session.metrics) for name, score in scores.items()},
        "clients": {name: by_metric(score, session.metrics) for name, score in owners.items()},
    }
    keep = partial(peft_bridge.export, session.model, adapters, directory.best, session.recipe.run.export_rank)
    state, line = monitored(state, {name: score.loss for name, score in scores.items()}, more, keep)
    seconds = dict(state.totals.seconds)
    seconds["eval"] += time.perf_counter() - began
    return replace(state, totals=replace(state.totals, seconds=seconds)), [line]


def evaluate_specialists(
    session: Session, method: Method, played: MethodRun, directory: RunDirectory, watcher: Watcher
) -> Mapping[str, OutcomesByDomain]:
    """Every client's own specialist, trained as long as the federated model, and evaluated; empty if not asked for.

    Without privacy: nobody has to hide anything from himself.
    """
    if (known := alone(method, played.outcomes)) is not None:
        return known
    if not session.references:
        return {}
    directory.alone.path.mkdir(exist_ok=True)
    local = create("local")
    recipe = session.recipe
    recipe = replace(
        recipe,
        run=replace(recipe.run, evaluate_every=0),
        privacy=PrivacyConfig(),
        train=replace(recipe.train, horizon=recipe.train.horizon or recipe.federation.rounds),
        federation=replace(recipe.federation, rounds=played.state.round),
    )
    return play_all(replace(session, recipe=recipe, secret=None), local, directory.alone, watcher).outcomes


def with_privacy(session: Session, method: Method, directory: RunDirectory, resume: bool) -> Session:
    """The session with the secret, if the recipe asks for one, and with the noise that its epsilon asks for."""
    if session.recipe.privacy.seed == "system":
        session = replace(session, secret=read_secret(directory.checkpoints) if resume else draw_secret())
    return replace(session, recipe=resolved(session.recipe, federated(session, method)))


def about(session: Session, method: Method, state: State, export: ExportedAdapter | None) -> About:
    """What the summary says of the run besides its figures."""
    recipe, base = session.recipe, session.base
    return About(
        method=method.name,
        fields={key: value for key, value in recipe.method.items() if key != "name"},
        task=recipe.data.task,
        classes=session.classes,
        clients=len(session.clients),
        seed=recipe.run.seed,
        start=session.start,
        base={"name": base.name, "fingerprint": base.fingerprint},
        metrics=session.metrics,
        privacy=guarantee(recipe, federated(session, method), state.round),
        export=export._asdict() if export else None,
    )


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
    """The recipe as a resumed run needs it, too: its method found from any folder, its number of threads fixed.

    Raises: ConfigError for a method that makes no sense.
    """
    method_of(recipe)
    method = {**recipe.method, "name": absolute(recipe.method["name"])}
    threads = recipe.run.threads or torch.get_num_threads()
    return replace(recipe, method=method, run=replace(recipe.run, threads=threads))
